//! A checkpoint that is read from the store by ranges, without a whole download.

use crate::ahead::Ahead;
use crate::bucket::Bucket;
use crate::download;
use crate::explain::{Failed, Reason};
use crate::upload::AT_ONCE;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use keepstep_pt::{ReadAt, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Runtime;

/// The size of a block. Reading an archive's directory touches many small places.
const BLOCK: u64 = 64 << 10;

/// Blocks that are kept.
const BLOCKS: usize = 256;

/// An object as a source of bytes.
pub(crate) struct RemoteFile {
    runtime: Arc<Runtime>,
    bucket: Bucket,
    key: String,
    len: u64,
    blocks: Mutex<BTreeMap<u64, Bytes>>,
    ahead: Mutex<Ahead>,
    /// Set when the object is no longer there.
    is_gone: Arc<AtomicBool>,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteFile({}/{})", self.bucket.url, self.key)
    }
}

impl RemoteFile {
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        bucket: Bucket,
        (key, len): (&str, u64),
        is_gone: Arc<AtomicBool>,
    ) -> RemoteFile {
        let ahead = Mutex::new(Ahead::new(bucket.part_bytes));
        RemoteFile { runtime, bucket, key: key.to_owned(), len, blocks: Mutex::default(), ahead, is_gone }
    }

    /// Fetches ranges, several at once.
    fn fetch(&self, ranges: Vec<Range<u64>>) -> io::Result<Vec<Bytes>> {
        let fetch = |range| download::range(&self.bucket, &self.key, range);
        let fetched = stream::iter(ranges).map(fetch).buffered(AT_ONCE).try_collect();
        self.runtime.block_on(fetched).map_err(|failed: Failed| {
            let is_gone = failed.reason == Reason::Missing;
            self.is_gone.fetch_or(is_gone, Relaxed);
            io::Error::new(if is_gone { io::ErrorKind::NotFound } else { io::ErrorKind::Other }, failed.what)
        })
    }

    fn fetch_one(&self, range: Range<u64>) -> io::Result<Bytes> {
        Ok(self.fetch(vec![range])?.swap_remove(0))
    }

    fn blocks(&self) -> MutexGuard<'_, BTreeMap<u64, Bytes>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self, nth: u64) -> Option<Bytes> {
        self.blocks().get(&nth).cloned()
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
        let whole = self.fetch_one(start..((nth + count) * BLOCK).min(self.len))?;
        let mut blocks = self.blocks();
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

    /// Fills the beginning of `out` from a range that was announced. Gives the number of bytes.
    fn read_announced(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        // Other threads wait here for the same parts.
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = ahead.copy(out, offset);
        if copied > 0 {
            return Ok(copied);
        }
        let Some(wanted) = ahead.wanted(offset, out.len() as u64, BLOCK) else { return Ok(0) };
        let starts: Vec<u64> = wanted.iter().map(|range| range.start).collect();
        ahead.insert(starts.into_iter().zip(self.fetch(wanted)?));
        Ok(ahead.copy(out, offset))
    }

    /// Fills `out`, whose place was not announced.
    fn read_unannounced(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if out.len() as u64 >= BLOCK {
            out.copy_from_slice(&self.fetch_one(offset..end)?);
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

impl ReadAt for RemoteFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < out.len() {
            let (rest, at) = (&mut out[done..], offset + done as u64);
            match self.read_announced(rest, at)? {
                0 => return self.read_unannounced(rest, at),
                copied => done += copied,
            }
        }
        Ok(())
    }

    fn will_read(&self, range: Range<u64>) {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).announce(range);
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

    /// The sizes of the parts of a transfer in these tests.
    const PART: u64 = 1 << 20;

    /// A store that holds this archive, and the source that reads it.
    fn stored(runtime: Runtime, root: Dict) -> (Arc<World>, Arc<RemoteFile>) {
        let mut bytes = Vec::new();
        Archive::new(&root.into()).write_to(&mut bytes).expect("memory takes everything");
        let world = World::new(Plan::At(Vec::new()));
        let mut bucket = bucket(Arc::new(Wire::new(&world, 1)));
        bucket.part_bytes = PART;
        let of = ("x.pt", bytes.len() as u64);
        runtime.block_on(bucket.put("x.pt", bytes.into())).expect("it is there");
        (world, Arc::new(RemoteFile::new(Arc::new(runtime), bucket, of, Arc::default())))
    }

    /// Runs `work` with a source for a checkpoint of 150 tensors and as many moments. Gives the requests that it made and
    /// the bytes that it read.
    fn requests(num_elements: usize, work: impl FnOnce(Arc<dyn ReadAt>)) -> (u64, u64) {
        let tensors = |kind: &str| {
            let mut dict = Dict::new();
            for at in 0..150 {
                let values = vec![at as f32; num_elements];
                let tensor = Tensor::from_slice(&values, vec![num_elements]);
                dict.insert(format!("transformer.h.{at}.mlp.c_fc.{kind}"), tensor);
            }
            dict
        };
        let mut root = Dict::new();
        root.insert("model_state_dict", tensors("weight"));
        root.insert("optimizer_state_dict", tensors("exp_avg"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (world, source) = stored(runtime.expect("a runtime"), root);
        let before = (world.requests(), world.bytes_read());
        work(source);
        (world.requests() - before.0, world.bytes_read() - before.1)
    }

    fn part<'a>(file: &'a File, key: &str) -> &'a Value {
        file.value().as_dict().and_then(|dict| dict.get(key)).expect("a part of the checkpoint")
    }

    /// Reads every tensor of the model, in another order than the file has them in.
    fn read_model(file: &File, num_elements: usize) {
        let model = part(file, "model_state_dict").as_dict().expect("a dict");
        for (nth, (_, value)) in model.iter().enumerate().skip(1).chain(model.iter().enumerate().take(1)) {
            let values = value.as_tensor().expect("a tensor").to_vec::<f32>().expect("its elements");
            assert_eq!(values, vec![nth as f32; num_elements]);
        }
    }

    #[test]
    fn the_values_of_a_checkpoint_take_three_requests() {
        // Tensors of any size: the directory lies in the last block, or crosses blocks.
        for num_elements in [1, 100, 17_000, 20_000, 20_011] {
            let (made, _) = requests(num_elements, |source| {
                let file = File::values_from_source("x.pt", source).expect("its values");
                assert_eq!(part(&file, "model_state_dict").as_dict().map(Dict::len), Some(150));
            });
            assert!(made <= 3, "{made} requests with {num_elements} elements");
        }
    }

    #[test]
    fn a_model_is_read_in_large_parts_and_without_the_moments() {
        for num_elements in [1, 100, 17_000, 20_011] {
            let model_bytes = 150 * (num_elements as u64 * 4 + 200);
            let (made, read) = requests(num_elements, |source| {
                let file = File::values_from_source("x.pt", source).expect("its values");
                file.will_read(part(&file, "model_state_dict"));
                read_model(&file, num_elements);
            });
            // The first tensor, which is read last, is no longer there and takes some parts again.
            let most = 3 + model_bytes.div_ceil(PART) + AT_ONCE as u64 + 1;
            assert!(made <= most, "{made} requests with {num_elements} elements, and not {most}");
            let most = model_bytes + 5 * BLOCK + (AT_ONCE as u64 + 1) * PART;
            assert!(read <= most, "{read} bytes with {num_elements} elements, and not {most}");
            println!("a model of {model_bytes} bytes: {made} requests for {read} bytes");
        }
    }

    /// A tensor that is larger than all parts that are here at a time, which several threads read.
    #[test]
    fn a_large_tensor_is_read_in_parts() {
        const LEN: usize = 1 << 22;
        let mut model = Dict::new();
        for (name, len) in [("first", 10), ("large", LEN), ("last", 10)] {
            let values: Vec<f32> = (0..len).map(|at| at as f32).collect();
            model.insert(name, Tensor::from_slice(&values, vec![len]));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let (world, source) = stored(runtime.expect("a runtime"), model);
        let before = (world.requests(), world.bytes_read());
        let file =
            File::values_from_source("x.pt", Arc::<RemoteFile>::clone(&source) as _).expect("its values");
        file.will_read(file.value());
        for (name, len) in [("first", 10), ("large", LEN), ("last", 10)] {
            let tensor = part(&file, name).as_tensor().expect("a tensor");
            let values = tensor.to_vec::<f32>().expect("its elements");
            assert!(values.len() == len && values.iter().enumerate().all(|(at, value)| *value == at as f32));
        }
        let (made, read) = (world.requests() - before.0, world.bytes_read() - before.1);
        println!("a tensor of {} bytes: {made} requests for {read} bytes", LEN * 4);
        // On a busy machine a thread may come too late for a part, and some are fetched again.
        assert!(made <= 3 + 1 + 17 + 12 && read <= 30 * PART, "{made} requests, {read} bytes");
        let held = source.ahead.lock().expect("no thread has panicked").len_bytes();
        assert!(held <= (AT_ONCE as u64 + 1) * PART, "{held} bytes are held");
    }

    #[test]
    fn what_was_not_announced_is_read_all_the_same() {
        for num_elements in [100, 20_011] {
            requests(num_elements, |source| {
                let file = File::values_from_source("x.pt", source).expect("its values");
                read_model(&file, num_elements);
            });
        }
    }

    #[test]
    fn blocks_that_are_read_together_are_those_of_the_object() {
        let mut whole = Vec::new();
        let mut read = |announced: &[Range<u64>]| {
            requests(2_500, |source| {
                let len = source.len_bytes().expect("its size");
                whole = vec![0; len as usize];
                for (at, part) in whole.chunks_mut(BLOCK as usize).enumerate() {
                    source.read_exact_at(part, at as u64 * BLOCK).expect("a block");
                }
                announced.iter().for_each(|range| source.will_read(range.clone()));
                // Any ranges, in an order that is no order.
                let mut place = 1_u64;
                for nth in 0..500 {
                    place =
                        place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let from = (place >> 20) % len;
                    let most = if nth % 10 == 0 { 3 * PART } else { BLOCK - 1 };
                    let mut part = vec![0; ((place >> 10) % most).min(len - from) as usize];
                    source.read_exact_at(&mut part, from).expect("a range");
                    assert!(
                        part == whole[from as usize..from as usize + part.len()],
                        "{} bytes at {from}",
                        part.len()
                    );
                }
            })
        };
        let (made, _) = read(&[]);
        assert!(made < 350, "{made}");
        read(&[1000..1_000_000, 1_000_000..1_000_001, 1_700_000..3_000_000]);
        assert!(File::from_source("x.pt", Arc::new(whole)).and_then(|file| file.verify()).is_ok());
    }
}
