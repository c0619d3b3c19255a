//! Downloading objects by ranges, several at once, and verifying them.

use crate::bucket::Bucket;
use crate::explain::{Failed, Reason};
use crate::manifest::Object;
use crate::transfer::Meter;
use crate::upload::AT_ONCE;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use keepstep::hex;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts at one range.
const ATTEMPTS: u32 = 4;

/// The ranges of an object in order, a few ahead.
fn ranges<'a>(bucket: &'a Bucket, key: &'a str, len: u64) -> impl Stream<Item = Result<Bytes, Failed>> + 'a {
    let part = bucket.part_bytes;
    let starts = (0..len.div_ceil(part)).map(move |nth| nth * part);
    stream::iter(starts)
        .map(move |start| range(bucket, key, start..(start + part).min(len)))
        .buffered(AT_ONCE)
}

/// One range, with a few attempts.
pub(crate) async fn range(bucket: &Bucket, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, Failed> {
    let mut pause = Duration::from_millis(100);
    for _ in 1..ATTEMPTS {
        match bucket.get_range(key, range.clone()).await {
            Err(failed) if failed.reason == Reason::Unknown => tokio::time::sleep(pause).await,
            result => return result,
        }
        pause *= 4;
    }
    bucket.get_range(key, range).await
}

/// The SHA-256 of an object.
pub(crate) async fn hash(bucket: &Bucket, key: &str, len: u64) -> Result<String, Failed> {
    hash_with(bucket, key, len, &mut Meter::none()).await
}

/// The SHA-256 of an object, with progress.
pub(crate) async fn hash_with(
    bucket: &Bucket,
    key: &str,
    len: u64,
    meter: &mut Meter,
) -> Result<String, Failed> {
    let mut hash = Sha256::new();
    let mut parts = std::pin::pin!(ranges(bucket, key, len));
    while let Some(part) = parts.next().await {
        let part = part?;
        meter.add(part.len() as u64);
        hash.update(&part);
    }
    Ok(hex(&hash.finalize()))
}

/// Whether an object has these bytes.
pub(crate) async fn equals(bucket: &Bucket, key: &str, bytes: &Bytes) -> Result<bool, Failed> {
    let mut rest = &bytes[..];
    let mut parts = std::pin::pin!(ranges(bucket, key, bytes.len() as u64));
    while let Some(part) = parts.next().await {
        let part = part?;
        match rest.strip_prefix(&part[..]) {
            Some(left) => rest = left,
            None => return Ok(false),
        }
    }
    Ok(rest.is_empty())
}

/// Downloads an object into memory, and verifies it.
pub(crate) async fn bytes(bucket: &Bucket, key: &str, len: u64, sha256: &str) -> Result<Vec<u8>, Failed> {
    let mut whole = Vec::new();
    let mut parts = std::pin::pin!(ranges(bucket, key, len));
    while let Some(part) = parts.next().await {
        whole.extend_from_slice(&part?);
    }
    if hex(&Sha256::digest(&whole)) == sha256 { Ok(whole) } else { Err(damaged(key)) }
}

fn damaged(key: &str) -> Failed {
    Failed::new(Reason::Unknown, format!("{key}: its hash is not the one in run.json"))
}

/// Downloads an object to a file: into a temporary file of its full size next to it, which is verified, synced and
/// renamed. An existing file of that name is replaced.
///
/// # Errors
/// A request has failed, the content is damaged, or the disk has.
pub(crate) async fn file(
    bucket: &Bucket,
    object: &Object,
    to: &Path,
    check: impl FnOnce(&Path) -> Result<(), String>,
    meter: &mut Meter,
) -> Result<(), Failed> {
    let temporary = temporary(to);
    let result = write(bucket, object, &temporary, meter).await;
    let result = result.and_then(|()| {
        check(&temporary)
            .map_err(|reason| Failed::new(Reason::Unknown, format!("{}: {reason}", object.key)))?;
        publish(&temporary, to).map_err(|error| disk(to, &error))
    });
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// The name of a file that is not whole. Opening a run's folder removes such files.
fn temporary(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.tmp"))
}

fn disk(path: &Path, error: &io::Error) -> Failed {
    Failed::new(Reason::Usage, format!("{}: {error}", path.display()))
}

async fn write(bucket: &Bucket, object: &Object, temporary: &Path, meter: &mut Meter) -> Result<(), Failed> {
    let failed = |error: io::Error| disk(temporary, &error);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).open(temporary).map_err(failed)?;
    keepstep::store::preallocate(&file, object.size).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut parts = std::pin::pin!(ranges(bucket, &object.key, object.size));
    while let Some(part) = parts.next().await {
        let part = part?;
        hash.update(&part);
        file.write_all(&part).map_err(failed)?;
        meter.add(part.len() as u64);
    }
    file.sync_all().map_err(failed)?;
    if hex(&hash.finalize()) == object.sha256 { Ok(()) } else { Err(damaged(&object.key)) }
}

fn publish(temporary: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(temporary, to)?;
    if let Some(folder) = to.parent() {
        // Some network file systems cannot sync a folder.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}
