//! Uploading a file, and verifying what arrived.

use crate::bucket::Bucket;
use crate::download;
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

/// Parts under way at the same time. Memory holds as many, and a file of no more than all of them.
pub(crate) const AT_ONCE: usize = 4;

/// The size of a file that is read once and kept in memory until it is verified: as much as the parts of a larger one.
const IN_MEMORY: u64 = 32 << 20;

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

    /// The same content, in memory if it is small. A file is read once then, and its hash is that of what is sent.
    pub(crate) fn in_memory(&self) -> io::Result<Content> {
        match self {
            Content::File { len, .. } if *len <= IN_MEMORY => Ok(Content::Bytes(self.part(0, *len)?)),
            content => Ok(content.clone()),
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
        let etag = bucket.put_compared(key, read(key, content, 0, len)?).await?;
        meter.add(len);
        etag
    } else {
        parts(bucket, key, content, meter).await?
    };
    verify(bucket, key, content, sha256).await?;
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
                under_way.push(async move { bucket.part(key, size, part).await.map(|()| size) });
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
        let _ = bucket.part(key, 0, upload.abort()).await;
        return Err(failed);
    }
    Ok(bucket.part(key, 0, upload.complete()).await?.e_tag)
}

/// Compares an object with what was sent: byte by byte, or, where that is not in memory, by its hash.
async fn verify(bucket: &Bucket, key: &str, content: &Content, sha256: &str) -> Result<(), Failed> {
    let len = content.len();
    let size = bucket.size(key).await?;
    if size != len {
        return Err(Failed::new(Reason::Unknown, format!("{key}: {size} of {len} bytes arrived")));
    }
    if bucket.server_checks {
        return Ok(());
    }
    let is_same = match content {
        Content::Bytes(bytes) => download::equals(bucket, key, bytes).await?,
        Content::File { .. } => download::hash(bucket, key, len).await? == sha256,
    };
    if is_same {
        Ok(())
    } else {
        Err(Failed::new(Reason::Unknown, format!("{key}: other bytes arrived than were sent")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Plan, Wire, World, bucket};
    use std::io::Write;

    fn file(bytes: &[u8]) -> Content {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("its bytes");
        Content::of_file(Arc::new(file)).expect("its size")
    }

    #[test]
    fn a_small_file_is_read_once() {
        let small = file(b"a checkpoint");
        let held = small.in_memory().expect("its bytes");
        assert!(matches!(&held, Content::Bytes(bytes) if &bytes[..] == b"a checkpoint"));
        assert_eq!(held.sha256().expect("a hash"), small.sha256().expect("a hash"));
        // A sparse file.
        let large = tempfile::tempfile().expect("a file");
        large.set_len(IN_MEMORY + 1).expect("its size");
        let large =
            Content::of_file(Arc::new(large)).expect("its size").in_memory().expect("it stays a file");
        assert!(matches!(large, Content::File { len, .. } if len == IN_MEMORY + 1));
    }

    #[test]
    fn other_bytes_that_arrived_are_noticed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let bucket = bucket(Arc::new(Wire::new(&World::new(Plan::At(Vec::new())), 1)));
            // Three parts, the last of which is not whole.
            let sent: Vec<u8> = (0..2 * bucket.part_bytes + 300).map(|at| at as u8).collect();
            let contents = [Content::Bytes(sent.clone().into()), file(&sent)];
            let sha256 = contents[0].sha256().expect("a hash");
            for content in &contents {
                upload(&bucket, "x", content, &sha256, &mut Meter::none()).await.expect("it arrives");
                for at in [0, 999, 1000, 1999, 2000, sent.len() - 1] {
                    let mut arrived = sent.clone();
                    arrived[at] ^= 1;
                    bucket.put("x", arrived.into()).await.expect("another object");
                    let error = verify(&bucket, "x", content, &sha256).await.expect_err("another byte");
                    assert!(error.what.contains("other bytes arrived"), "{at}: {error:?}");
                }
                for len in [0, 1000, sent.len() - 1] {
                    bucket.put("x", sent[..len].to_vec().into()).await.expect("another object");
                    let error = verify(&bucket, "x", content, &sha256).await.expect_err("fewer bytes");
                    assert!(error.what.contains("bytes arrived"), "{len}: {error:?}");
                }
            }
        });
    }
}
