//! How fast memory can be read: the floor of the time that a token takes.

use keepstep_numerics::matmul::prefetch;
use keepstep_numerics::vectorized;
use std::hint::black_box;
use std::time::Instant;

/// Numbers that one step takes from each stream.
const STEP: usize = 64;

/// A way to read memory in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// Places of each thread's part that are read in turn.
    streams: usize,
    /// How far ahead memory is asked for, in bytes; 0 leaves that to the processor.
    ahead: usize,
}

/// The ways that are tried. Which is the fastest depends on the processor.
pub(crate) fn ways() -> Vec<Way> {
    let ways = |streams| [0, 512, 1024, 2048, 4096, 8192].map(|ahead| Way { streams, ahead });
    [1, 2, 4, 8, 16].into_iter().flat_map(ways).collect()
}

/// The least numbers to read in one measurement: starting threads takes a small part of the time then.
const LEAST: usize = 100_000_000;

/// Reads all values on as many threads, each its part, and returns the seconds that it took.
pub(crate) fn read(values: &[f32], threads: usize, way: Way) -> f64 {
    let passes = LEAST.div_ceil(values.len());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in values.chunks(values.len().div_ceil(threads)) {
            scope.spawn(move || {
                let len = part.len() / way.streams / STEP * STEP;
                let mut sums = [0; STEP];
                for _ in 0..passes {
                    read_part(&mut sums, black_box(part), len, way.streams, way.ahead / size_of::<f32>());
                }
                black_box(sums)
            });
        }
    });
    start.elapsed().as_secs_f64() / passes as f64
}

vectorized! {
    fn read_part(sums: &mut [u32; STEP], values: &[f32], len: usize, streams: usize, ahead: usize) {
        for place in (0..len).step_by(STEP) {
            for stream in 0..streams {
                let from = stream * len + place;
                if ahead > 0 {
                    for line in (0..STEP).step_by(16) {
                        prefetch(values.as_ptr().wrapping_add(from + ahead + line));
                    }
                }
                for (sum, value) in sums.iter_mut().zip(&values[from..from + STEP]) {
                    *sum ^= value.to_bits();
                }
            }
        }
    }
}
