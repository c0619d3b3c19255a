//! Matrix products whose every bit is defined.
//!
//! An element of the result is, for each slice of at most 512 of the inner dimension, a chain of fused multiply-adds in
//! ascending order that begins at 0; the slices are added in ascending order. It does not matter which kernel computes
//! it, on how many threads, or with which vectors. Our own kernel does that with AVX-512, or with AVX2 and FMA. On other
//! architectures the kernels of the `gemm` crate do, except in a few paths for small shapes, which are kept out of.

pub mod aligned;
pub mod dispatch;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod gemm;
#[cfg(target_arch = "x86_64")]
pub(crate) mod kernel;
mod loops;
mod matrix;
pub mod matvec;
#[cfg(target_arch = "x86_64")]
mod pack;
pub mod packed;
#[cfg(target_arch = "x86_64")]
pub(crate) mod simd;
mod task;
#[cfg(test)]
mod tests;

pub use matrix::{Into, Matrix, MatrixMut};

use packed::Packed;
use rayon::prelude::*;
use task::Backend;
pub(crate) use task::Task;

/// The crate cuts the inner dimension by cache sizes, but never below this, so that slices of this length are not cut.
pub(crate) const SLICE: usize = 512;

/// Fewer multiply-adds than this are not worth a second thread.
const SERIAL: usize = 1 << 16;

/// Parts are multiples of this many rows or columns: whole tiles of any kernel.
const PART_ROWS: usize = 12;
const PART_COLS: usize = 32;
/// Longer parts leave a thread waiting for another's last one.
const LONGEST_PART: usize = 768;

/// `out = lhs · rhs`, or `out += lhs · rhs`, on all threads of the current pool.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    share_out(out, into, lhs, rhs, Part::compute);
}

/// Gives a product to `compute` in parts, on all threads of the current pool.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn share_out<'a>(
    out: MatrixMut<'a>,
    into: Into<'a>,
    lhs: Matrix<'a>,
    rhs: Matrix<'a>,
    compute: impl Fn(Part<'a>) + Sync + Send,
) {
    if rayon::current_num_threads() == 1 || lhs.rows * lhs.cols * rhs.cols < SERIAL {
        return compute(Part::whole(out, into, lhs, rhs));
    }
    parts(out, into, lhs, rhs).into_par_iter().with_max_len(1).for_each(compute);
}

/// A part of a product's result, for a thread to compute.
#[derive(Debug)]
pub struct Part<'a> {
    task: Task<'a>,
    into: Into<'a>,
}

impl<'a> Part<'a> {
    /// All of a product.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn whole(out: MatrixMut<'a>, into: Into<'a>, lhs: Matrix<'a>, rhs: Matrix<'a>) -> Part<'a> {
        Part { task: Task::new(out, lhs, rhs), into }
    }

    /// The same with a right side that is packed already.
    ///
    /// # Safety
    /// It is that of the product, and its packing is done.
    #[must_use]
    pub unsafe fn with_packed(mut self, rhs: Option<Packed<'a>>) -> Part<'a> {
        self.task.packed = rhs;
        self
    }

    /// What it writes to and what it reads, for another kernel: the target is the part's own, while it lasts.
    pub(crate) fn into_task(self) -> (Task<'a>, Into<'a>) {
        (self.task, self.into)
    }

    /// Computes it on this thread.
    pub fn compute(self) {
        // SAFETY: the parts are disjoint, and `out` is borrowed mutably until all are gone.
        unsafe { self.task.run(self.into, Backend::of_processor()) };
    }
}

/// `out = lhs · rhs` and so on, in a few parts for each thread of the current pool: no element's sum is shared.
///
/// # Panics
/// If the shapes do not fit.
pub fn parts<'a>(out: MatrixMut<'a>, into: Into<'a>, lhs: Matrix<'a>, rhs: Matrix<'a>) -> Vec<Part<'a>> {
    let task = Task::new(out, lhs, rhs);
    let by_rows = task.rows > task.cols;
    let (len, unit) = if by_rows { (task.rows, PART_ROWS) } else { (task.cols, PART_COLS) };
    let part = part_len(len, unit, rayon::current_num_threads());
    (0..len.div_ceil(part))
        .map(|index| {
            let (start, end) = (index * part, len.min((index + 1) * part));
            if by_rows {
                Part { task: task.row_range(start, end), into }
            } else {
                Part { task: task.col_range(start, end), into: into.from(start) }
            }
        })
        .collect()
}

/// How much of `len` a part takes, in whole units: parts of one size, as many for each thread as for the others.
fn part_len(len: usize, unit: usize, threads: usize) -> usize {
    let len = len.max(1);
    if threads == 1 {
        return len;
    }
    let rounds = len.div_ceil(threads * LONGEST_PART);
    len.div_ceil(rounds * threads).next_multiple_of(unit)
}

/// The same on this thread alone.
///
/// # Panics
/// If the shapes do not fit.
pub fn serial_product(out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    Part::whole(out, into, lhs, rhs).compute();
}
