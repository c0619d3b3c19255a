//! A checkpoint that is read from the store by ranges, without a whole download.

use crate::bucket::Bucket;
use crate::explain::{Failed, Reason};
use bytes::Bytes;
use keepstep_pt::{ReadAt, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;

/// The size of a block. Reading an archive's directory touches many small places.
const BLOCK: u64 = 64 << 10;

/// Blocks that are kept.
const BLOCKS: usize = 256;

/// An object as a source of bytes.
pub struct RemoteFile {
    runtime: Handle,
    bucket: Bucket,
    key: String,
    len: u64,
    blocks: Mutex<BTreeMap<u64, Bytes>>,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteFile({}/{})", self.bucket.url, self.key)
    }
}

impl RemoteFile {
    pub(crate) fn new(runtime: Handle, bucket: Bucket, key: &str, len: u64) -> RemoteFile {
        RemoteFile { runtime, bucket, key: key.to_owned(), len, blocks: Mutex::default() }
    }

    fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        let kind = |failed: Failed| {
            let kind =
                if failed.reason == Reason::Missing { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
            io::Error::new(kind, failed.what)
        };
        self.runtime.block_on(self.bucket.get_range(&self.key, range)).map_err(kind)
    }

    fn block(&self, nth: u64) -> io::Result<Bytes> {
        let cached = self.blocks.lock().unwrap_or_else(PoisonError::into_inner).get(&nth).cloned();
        if let Some(block) = cached {
            return Ok(block);
        }
        let start = nth * BLOCK;
        let block = self.fetch(start..(start + BLOCK).min(self.len))?;
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() >= BLOCKS {
            blocks.clear();
        }
        blocks.insert(nth, block.clone());
        Ok(block)
    }
}

impl ReadAt for RemoteFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        if out.is_empty() {
            return Ok(());
        }
        if out.len() as u64 >= BLOCK {
            out.copy_from_slice(&self.fetch(offset..end)?);
            return Ok(());
        }
        for nth in offset / BLOCK..=(end - 1) / BLOCK {
            let (block, start) = (self.block(nth)?, nth * BLOCK);
            let from = offset.max(start);
            let to = end.min(start + block.len() as u64);
            let part = &block[(from - start) as usize..(to - start) as usize];
            out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        Ok(())
    }
}

/// An object in memory, for files that are read once.
#[derive(Debug)]
struct Whole(Bytes);

impl ReadAt for Whole {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset as usize + out.len();
        out.copy_from_slice(self.0.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The global step that a checkpoint states. The object is read whole: this is for rare cases.
pub(crate) async fn stated_global_step(bucket: &Bucket, key: &str, size: u64) -> Option<u64> {
    let bytes = bucket.get_range(key, 0..size).await.ok()?;
    global_step(key, Arc::new(Whole(bytes)))
}

/// The global step of the best model, according to a checkpoint.
pub(crate) async fn best_global_step(bucket: &Bucket, key: &str, size: u64) -> Option<u64> {
    let bytes = bucket.get_range(key, 0..size).await.ok()?;
    let file = keepstep_pt::File::from_source(key, Arc::new(Whole(bytes))).ok()?;
    let checkpoint = keepstep::Checkpoint::from_value(file.value()).ok()?;
    checkpoint.metrics.best.map(|best| best.position.global_step)
}

/// The global step that a checkpoint states.
pub(crate) fn global_step(name: &str, source: Arc<dyn ReadAt>) -> Option<u64> {
    let file = keepstep_pt::File::from_source(name, source).ok()?;
    let step = file.value().as_dict()?.get("global_step").and_then(Value::as_int)?;
    u64::try_from(step).ok()
}
