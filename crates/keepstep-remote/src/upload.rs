//! Uploading a file, and verifying what arrived.

use crate::bucket::Bucket;
use crate::explain::{Failed, Reason};
use crate::transfer::Meter;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use keepstep::hex;
use keepstep_pt::ReadAt;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// The most parts of an upload. S3 allows 10,000.
const MAX_PARTS: u64 = 9_000;

/// Parts under way at the same time. Memory holds as many.
pub(crate) const AT_ONCE: usize = 4;

/// Bytes that are read at a time to be hashed.
const HASHED_AT_ONCE: u64 = 256 << 10;

/// What is uploaded.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A range of an open file: rotation may remove its name meanwhile.
    File { file: Arc<File>, start: u64, len: u64 },
    /// Memory.
    Bytes(Bytes),
}

impl Content {
    pub(crate) fn of_file(file: Arc<File>) -> io::Result<Content> {
        let len = file.len_bytes()?;
        Ok(Content::File { file, start: 0, len })
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Content::File { len, .. } => *len,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn part(&self, offset: u64, len: u64) -> io::Result<Bytes> {
        match self {
            Content::File { file, start, .. } => {
                let mut bytes = vec![0; len as usize];
                file.read_exact_at(&mut bytes, start + offset)?;
                Ok(bytes.into())
            }
            Content::Bytes(bytes) => Ok(bytes.slice(offset as usize..(offset + len) as usize)),
        }
    }

    /// The SHA-256 of it, in hexadecimal.
    pub(crate) fn sha256(&self) -> io::Result<String> {
        let mut hash = Sha256::new();
        match self {
            Content::Bytes(bytes) => hash.update(bytes),
            Content::File { file, start, len } => {
                let (mut done, mut buffer) = (0, vec![0; HASHED_AT_ONCE as usize]);
                while done < *len {
                    let part = &mut buffer[..(len - done).min(HASHED_AT_ONCE) as usize];
                    file.read_exact_at(part, start + done)?;
                    hash.update(&*part);
                    done += part.len() as u64;
                }
            }
        }
        Ok(hex(&hash.finalize()))
    }
}

/// Uploads a file under a key and verifies it there. Gives the store's mark of the version.
///
/// # Errors
/// A request has failed, or something else arrived.
pub(crate) async fn upload(
    bucket: &Bucket,
    key: &str,
    content: &Content,
    sha256: &str,
    meter: &mut Meter,
) -> Result<Option<String>, Failed> {
    let len = content.len();
    let etag = if len <= bucket.part_bytes {
        let etag = bucket.put(key, read(key, content, 0, len)?).await?;
        meter.add(len);
        etag
    } else {
        parts(bucket, key, content, meter).await?
    };
    verify(bucket, key, len, sha256).await?;
    Ok(etag)
}

fn read(key: &str, content: &Content, offset: u64, len: u64) -> Result<Bytes, Failed> {
    content
        .part(offset, len)
        .map_err(|error| Failed::new(Reason::Unknown, format!("reading the file for {key}: {error}")))
}

async fn parts(
    bucket: &Bucket,
    key: &str,
    content: &Content,
    meter: &mut Meter,
) -> Result<Option<String>, Failed> {
    let len = content.len();
    let part_bytes = bucket.part_bytes.max(len.div_ceil(MAX_PARTS));
    let mut upload = bucket.multipart(key).await?;
    let mut under_way = FuturesUnordered::new();
    let sent = async {
        let mut offset = 0;
        while offset < len || !under_way.is_empty() {
            if offset < len && under_way.len() < AT_ONCE {
                let size = part_bytes.min(len - offset);
                let part = upload.put_part(read(key, content, offset, size)?.into());
                under_way.push(async move { bucket.part(key, part).await.map(|()| size) });
                offset += size;
            } else if let Some(done) = under_way.next().await {
                meter.add(done?);
            }
        }
        Ok::<(), Failed>(())
    };
    let sent = sent.await;
    drop(under_way);
    if let Err(failed) = sent {
        // What was uploaded of it would be paid for.
        let _ = bucket.part(key, upload.abort()).await;
        return Err(failed);
    }
    Ok(bucket.part(key, upload.complete()).await?.e_tag)
}

/// Compares an object with what was sent.
pub(crate) async fn verify(bucket: &Bucket, key: &str, len: u64, sha256: &str) -> Result<(), Failed> {
    let size = bucket.size(key).await?;
    if size != len {
        return Err(Failed::new(Reason::Unknown, format!("{key}: {size} of {len} bytes arrived")));
    }
    if bucket.server_checks {
        return Ok(());
    }
    let found = crate::download::hash(bucket, key, len).await?;
    if found == sha256 {
        Ok(())
    } else {
        Err(Failed::new(Reason::Unknown, format!("{key}: other bytes arrived than were sent")))
    }
}
