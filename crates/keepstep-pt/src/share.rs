//! Reads and checks large files with several threads, which take parts of equal size in turn.

use crate::bytes::Bytes;
use crate::error::Flaw;
use crate::zip_reader::Entry;
use std::num::NonZero;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

/// Bytes of a part. Checksums read it through a buffer of [`BUFFER`] bytes.
const PART: usize = 2 << 20;
/// Few enough bytes to stay in the processor's cache between reading and checksum.
const BUFFER: usize = 1 << 18;
/// From this size on, starting threads is worth it.
const LARGE: usize = 8 << 20;
/// More threads than this do not read memory faster.
const MOST_THREADS: usize = 4;

/// The number of threads that read a large file.
pub(crate) fn num_threads() -> usize {
    available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS)
}

/// Fills `out` with the bytes that begin at `offset`. Touching new memory costs more than reading the file, one page at a
/// time for each thread, so several threads are faster.
pub(crate) fn read(file: &Bytes, out: &mut [u8], offset: u64) -> Result<(), Flaw> {
    read_parts(file, out, offset, |_, _| ())
}

/// Fills `out` with the whole of an entry and computes its CRC-32 while the bytes are still in the processor's cache.
pub(crate) fn read_and_hash(entry: &Bytes, out: &mut [u8]) -> Result<u32, Flaw> {
    let hashes = Mutex::new(Vec::new());
    read_parts(entry, out, 0, |at, part| lock(&hashes).push((at, hash_of(part))))?;
    let mut hashes = hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
    hashes.sort_unstable_by_key(|&(at, _)| at);
    let mut whole = crc32fast::Hasher::new();
    hashes.iter().for_each(|(_, hash)| whole.combine(hash));
    Ok(whole.finalize())
}

fn hash_of(bytes: &[u8]) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes);
    hasher
}

/// Fills `out` part by part, and calls `read` with each part's number and bytes.
fn read_parts(
    file: &Bytes,
    out: &mut [u8],
    offset: u64,
    read: impl Fn(usize, &[u8]) + Sync,
) -> Result<(), Flaw> {
    let threads = if out.len() < LARGE { 1 } else { num_threads() };
    let parts = Mutex::new(out.chunks_mut(BUFFER).enumerate());
    let work = || {
        loop {
            let Some((at, part)) = lock(&parts).next() else { return Ok(()) };
            file.read_exact_at(part, offset + (at * BUFFER) as u64)?;
            read(at, part);
        }
    };
    share(threads, work).into_iter().collect()
}

/// Compares every entry's checksum with its bytes. Fails with the first entry that differs.
pub(crate) fn check(file: &Bytes, entries: &[&Entry], threads: usize) -> Result<(), Flaw> {
    let total: u64 = entries.iter().map(|entry| entry.size).sum();
    let threads = if total < LARGE as u64 { 1 } else { threads };
    let parts = Mutex::new(entries.iter().enumerate().flat_map(|(at, entry)| {
        let num_parts = entry.size.div_ceil(PART as u64).max(1);
        (0..num_parts).map(move |part| (at, part, num_parts))
    }));
    let work = || {
        let mut buffer = vec![0; BUFFER.min(total.max(1) as usize)];
        let mut hashes = Vec::new();
        loop {
            let Some((at, part, num_parts)) = lock(&parts).next() else {
                return Ok::<_, (usize, Flaw)>(hashes);
            };
            let entry = entries[at];
            let hash = hash_part(file, entry, part, &mut buffer).map_err(|flaw| (at, flaw))?;
            if num_parts > 1 {
                hashes.push((at, part, hash));
            } else {
                entry.compare(hash.finalize()).map_err(|flaw| (at, flaw))?;
            }
        }
    };
    let mut hashes = Vec::new();
    let mut first: Option<(usize, Flaw)> = None;
    for result in share(threads, work) {
        match result {
            Ok(part) => hashes.extend(part),
            Err(error) if first.as_ref().is_none_or(|(at, _)| error.0 < *at) => first = Some(error),
            Err(_) => {}
        }
    }
    if let Some((_, flaw)) = first {
        return Err(flaw);
    }
    hashes.sort_unstable_by_key(|&(at, part, _)| (at, part));
    for parts in hashes.chunk_by(|one, other| one.0 == other.0) {
        let mut whole = crc32fast::Hasher::new();
        parts.iter().for_each(|(_, _, hash)| whole.combine(hash));
        entries[parts[0].0].compare(whole.finalize())?;
    }
    Ok(())
}

fn hash_part(file: &Bytes, entry: &Entry, part: u64, buffer: &mut [u8]) -> Result<crc32fast::Hasher, Flaw> {
    let mut hasher = crc32fast::Hasher::new();
    let payload = entry.payload(file)?;
    let mut done = part * PART as u64;
    let end = entry.size.min(done + PART as u64);
    while done < end {
        let len = (end - done).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..len], payload + done)?;
        hasher.update(&buffer[..len]);
        done += len as u64;
    }
    Ok(hasher)
}

/// Runs `work` on `threads` threads, including this one, and gives all results.
fn share<T: Send>(threads: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&work)).collect();
        let mut results = vec![work()];
        for other in others {
            results.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
