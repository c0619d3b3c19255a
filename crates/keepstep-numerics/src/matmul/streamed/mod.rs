//! Matmuls of a few rows by a matrix that lies in memory and is read once: what decoding computes.
//!
//! Memory limits their speed. The right side is read once for all rows, and long pieces in ascending order are read
//! fastest: [`panel`] does so for a single row, [`by_rows`] and [`by_columns`] take a matrix as it lies. Each element has
//! the bits of the [definition](super::definition).

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod by_columns;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod by_rows;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel;

use super::aligned::{AlignedBuffer, LINE};
#[cfg(target_arch = "x86_64")]
use super::avx::{Avx2, Avx512};
use super::backend::Backend;
use super::definition::SLICE;
use super::loops;
use super::matrix::Accumulate;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::problem::Problem;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::simd::SimdF32;
use std::cell::RefCell;

/// The most sums that are kept at a time, where the right side has contiguous rows: they fit in the first-level cache.
const MAX_SUMS: usize = 4096;

/// The least columns whose sums are kept at a time, a multiple of every tile's width.
const MIN_PANEL: usize = 128;

/// Columns that are computed together where they are contiguous: as many places in memory are read in turn.
const COLUMNS: usize = 16;

thread_local! {
    static SUMS: RefCell<AlignedBuffer> = const { RefCell::new(AlignedBuffer::new()) };
}

impl Backend {
    /// Computes a matmul, and reads the right side once.
    ///
    /// # Safety
    /// Nothing else accesses the result during the call.
    pub(super) unsafe fn run_streamed(self, problem: &Problem<'_>, accumulate: Accumulate<'_>) {
        // SAFETY: the backend exists, so the processor has its instructions. The caller guarantees that nothing else
        // accesses the result.
        SUMS.with_borrow_mut(|sums| unsafe {
            match self {
                _ if problem.lhs.col_stride != 1 || problem.lhs.cols == 0 => in_loops(problem, accumulate),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512 => avx512(problem, accumulate, sums),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx2 => avx2(problem, accumulate, sums),
                #[cfg(target_arch = "aarch64")]
                Backend::Neon => compute::<Neon>(problem, accumulate, sums),
                _ => in_loops(problem, accumulate),
            }
        });
    }
}

/// # Safety
/// Nothing else accesses the result during the call.
unsafe fn in_loops(problem: &Problem<'_>, accumulate: Accumulate<'_>) {
    // SAFETY: the caller guarantees that nothing else accesses the result.
    unsafe { problem.for_each_slice(SLICE, accumulate, |slice, accumulate| loops::run(slice, accumulate)) }
}

/// # Safety
/// The contract of [`compute`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(problem: &Problem<'_>, accumulate: Accumulate<'_>, sums: &mut AlignedBuffer) {
    // SAFETY: the caller guarantees the same.
    unsafe { compute::<Avx512>(problem, accumulate, sums) }
}

/// # Safety
/// The contract of [`compute`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(problem: &Problem<'_>, accumulate: Accumulate<'_>, sums: &mut AlignedBuffer) {
    // SAFETY: the caller guarantees the same.
    unsafe { compute::<Avx2>(problem, accumulate, sums) }
}

/// The left side of one slice: rows of contiguous numbers.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    stride: usize,
    rows: usize,
    inner: usize,
}

/// The right side of one slice from some column on.
#[derive(Clone, Copy)]
struct Right<'a> {
    data: &'a [f32],
    /// The distance between rows, if these are contiguous, and between columns otherwise.
    stride: usize,
    cols: usize,
}

/// Computes a matmul, some columns at a time.
///
/// # Safety
/// The processor has the set, the left side has contiguous rows, and nothing else accesses the result during the call.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn compute<S: SimdF32>(problem: &Problem<'_>, accumulate: Accumulate<'_>, sums: &mut AlignedBuffer) {
    let (lhs, rhs, rows) = (&problem.lhs, &problem.rhs, problem.rows);
    let has_rows = rhs.col_stride == 1;
    let panel =
        if has_rows { (MAX_SUMS / rows.max(1) / MIN_PANEL * MIN_PANEL).max(MIN_PANEL) } else { COLUMNS };
    let panel = panel.min(problem.cols.next_multiple_of(LINE));
    let sums: &mut [f32] = sums.grown(rows * panel);
    for col in (0..problem.cols).step_by(panel) {
        let cols = panel.min(problem.cols - col);
        for start in (0..lhs.cols).step_by(SLICE) {
            let inner = SLICE.min(lhs.cols - start);
            let left = Left { data: &lhs.data[start..], stride: lhs.row_stride, rows, inner };
            let data = &rhs.data[start * rhs.row_stride + col * rhs.col_stride..];
            sums.fill(0.0);
            let right = |stride: usize| Right { data, stride, cols };
            // SAFETY: the left side has `inner` numbers in each of its rows, the right side has `inner` rows of `cols`
            // columns, and there are `panel` sums for each row. The caller guarantees the instructions.
            unsafe {
                if !has_rows {
                    by_columns::add::<S>(sums, panel, left, right(rhs.col_stride));
                } else if !panel::add::<S>(sums, left, right(rhs.row_stride)) {
                    by_rows::add::<S>(sums, panel, left, right(rhs.row_stride));
                }
            }
            let accumulate = if start == 0 { accumulate.at_col(col) } else { Accumulate::Add };
            for (row, sums) in sums.chunks_exact(panel).enumerate() {
                // SAFETY: the caller guarantees that nothing else accesses the result.
                let out = unsafe { problem.out_row(row) };
                accumulate.store(&mut out[col..col + cols], &sums[..cols]);
            }
        }
    }
}
