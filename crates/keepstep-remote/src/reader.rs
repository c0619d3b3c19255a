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

    fn cached(&self, nth: u64) -> Option<Bytes> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).get(&nth).cloned()
    }

    /// A block. If it is not here, it is fetched with all others up to the block `last` that are not here either.
    fn block(&self, nth: u64, last: u64) -> io::Result<Bytes> {
        if let Some(block) = self.cached(nth) {
            return Ok(block);
        }
        let is_missing = |nth: &u64| self.cached(*nth).is_none();
        let count = (nth..=last).take_while(is_missing).count() as u64;
        // The archive's directory is at its end, where the last block may have a few bytes only.
        let is_end = nth > 0 && nth + count == self.len.div_ceil(BLOCK) && is_missing(&(nth - 1));
        let first = if is_end { nth - 1 } else { nth };
        let start = first * BLOCK;
        let whole = self.fetch(start..((nth + count) * BLOCK).min(self.len))?;
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() >= BLOCKS {
            blocks.clear();
        }
        for at in first..nth + count {
            let from = ((at - first) * BLOCK) as usize;
            blocks.insert(at, whole.slice(from..whole.len().min(from + BLOCK as usize)));
        }
        Ok(whole
            .slice(((nth - first) * BLOCK) as usize..whole.len().min(((nth - first + 1) * BLOCK) as usize)))
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
        let last = (end - 1) / BLOCK;
        for nth in offset / BLOCK..=last {
            let (block, start) = (self.block(nth, last)?, nth * BLOCK);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Plan, Wire, World, bucket};
    use keepstep_pt::{Archive, Dict, File, Tensor};

    /// Runs `work` with a source for a checkpoint of 150 tensors. Gives the requests that it made.
    fn requests(num_elements: usize, work: impl FnOnce(Arc<dyn ReadAt>)) -> u64 {
        let mut model = Dict::new();
        for at in 0..150 {
            let values = vec![at as f32; num_elements];
            model.insert(
                format!("transformer.h.{at}.mlp.c_fc.weight"),
                Tensor::from_slice(&values, vec![num_elements]),
            );
        }
        let mut bytes = Vec::new();
        Archive::new(&model.into()).write_to(&mut bytes).expect("memory takes everything");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let world = World::new(Plan::At(Vec::new()));
        let bucket = bucket(Arc::new(Wire::new(&world, 1)));
        let len = bytes.len() as u64;
        runtime.block_on(bucket.put("x.pt", bytes.into())).expect("it is there");
        let before = world.requests();
        work(Arc::new(RemoteFile::new(runtime.handle().clone(), bucket, "x.pt", len)));
        world.requests() - before
    }

    #[test]
    fn the_values_of_a_checkpoint_take_three_requests() {
        // Tensors of any size: the directory lies in the last block, or crosses blocks.
        for num_elements in [1, 100, 17_000, 20_000, 20_011] {
            let made = requests(num_elements, |source| {
                let root = File::values_from_source("x.pt", source).expect("its values");
                assert_eq!(root.as_dict().map(Dict::len), Some(150));
            });
            assert!(made <= 3, "{made} requests with {num_elements} elements");
        }
        let made = requests(20_000, |source| {
            let file = File::from_source("x.pt", source).expect("a file");
            let last =
                file.value().as_dict().and_then(|dict| dict.iter().last()?.1.as_tensor()).expect("a tensor");
            assert_eq!(last.to_vec::<f32>().expect("its values"), vec![149.0; 20_000]);
        });
        println!("all headers and one tensor: {made} requests");
    }

    #[test]
    fn blocks_that_are_read_together_are_those_of_the_object() {
        let mut whole = Vec::new();
        let made = requests(5_000, |source| {
            let len = source.len_bytes().expect("its size");
            whole = vec![0; len as usize];
            for (at, part) in whole.chunks_mut(BLOCK as usize).enumerate() {
                source.read_exact_at(part, at as u64 * BLOCK).expect("a block");
            }
            // Any ranges, in an order that is no order.
            let mut place = 1_u64;
            for _ in 0..500 {
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let from = (place >> 20) % len;
                let mut part = vec![0; ((place >> 10) % (BLOCK - 1)).min(len - from) as usize];
                source.read_exact_at(&mut part, from).expect("a range");
                assert!(
                    part == whole[from as usize..from as usize + part.len()],
                    "{} bytes at {from}",
                    part.len()
                );
            }
        });
        assert!(made < 300, "{made}");
        assert!(File::from_source("x.pt", Arc::new(whole)).and_then(|file| file.verify()).is_ok());
    }
}
