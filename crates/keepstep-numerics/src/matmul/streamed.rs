//! Matmuls of a few rows by a matrix that lies in memory and is read once: what decoding computes.
//!
//! Memory limits their speed. The right side is read in place and in order, each number once for all rows, and the sums
//! of all rows stay in the caches. Each element has the bits of the [definition](super::definition).

use super::aligned::AlignedBuffer;
#[cfg(target_arch = "x86_64")]
use super::avx::{Avx2, Avx512};
use super::backend::Backend;
use super::loops;
use super::matrix::Accumulate;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::prefetch::prefetch_numbers;
use super::problem::Problem;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::simd::SimdF32;
use std::cell::RefCell;

/// The most sums that are kept at a time: half of a common first-level cache.
const MAX_SUMS: usize = 4096;

/// The most columns whose sums are kept at a time.
const MAX_PANEL: usize = 1024;

/// Rows of the right side that one pass over the sums takes.
const GROUP: usize = 8;

/// Groups that are prefetched: short pieces of distant rows are more than processors foresee.
const AHEAD: usize = 3;

thread_local! {
    static SUMS: RefCell<AlignedBuffer> = const { RefCell::new(AlignedBuffer::new()) };
}

impl Backend {
    /// Computes one slice of the inner dimension, and reads the right side once.
    ///
    /// # Safety
    /// Nothing else accesses the result during the call.
    pub(super) unsafe fn run_streamed(self, slice: &Problem<'_>, accumulate: Accumulate<'_>) {
        // SAFETY: the backend exists, so the processor has its instructions. The caller guarantees that nothing else
        // accesses the result.
        SUMS.with_borrow_mut(|sums| unsafe {
            match self {
                _ if slice.lhs.col_stride != 1 => loops::run(slice, accumulate),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512 => avx512(slice, accumulate, sums),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx2 => avx2(slice, accumulate, sums),
                #[cfg(target_arch = "aarch64")]
                Backend::Neon => compute::<Neon>(slice, accumulate, sums),
                _ => loops::run(slice, accumulate),
            }
        });
    }
}

/// # Safety
/// The processor has AVX-512, and nothing else accesses the result during the call.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(slice: &Problem<'_>, accumulate: Accumulate<'_>, sums: &mut AlignedBuffer) {
    // SAFETY: the caller guarantees both.
    unsafe { compute::<Avx512>(slice, accumulate, sums) }
}

/// # Safety
/// The processor has AVX2 and FMA, and nothing else accesses the result during the call.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(slice: &Problem<'_>, accumulate: Accumulate<'_>, sums: &mut AlignedBuffer) {
    // SAFETY: the caller guarantees both.
    unsafe { compute::<Avx2>(slice, accumulate, sums) }
}

/// # Safety
/// The processor has the set, and nothing else accesses the result during the call. The left side has contiguous rows.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn compute<S: SimdF32>(slice: &Problem<'_>, accumulate: Accumulate<'_>, sums: &mut AlignedBuffer) {
    let (rows, inner) = (slice.rows, slice.lhs.cols);
    let is_by_rows = slice.rhs.col_stride == 1;
    let panel = if is_by_rows {
        (MAX_SUMS / rows / S::LANES * S::LANES).clamp(S::LANES, MAX_PANEL)
    } else {
        CHAINS * S::LANES
    };
    let sums: &mut [f32] = sums.grown(rows * panel);
    for col in (0..slice.cols).step_by(panel) {
        let cols = panel.min(slice.cols - col);
        sums.fill(0.0);
        let data = &slice.rhs.data[col * slice.rhs.col_stride..];
        // SAFETY: the left side has `inner` numbers in each row, the right side `inner` rows of `cols` columns from
        // here on, and the sums have `rows` rows of `panel`. The caller guarantees the instructions.
        unsafe {
            let lhs = Left { data: slice.lhs.data, stride: slice.lhs.row_stride, rows, inner };
            if is_by_rows {
                add_rows::<S>(sums, panel, lhs, data, slice.rhs.row_stride, cols);
            } else {
                add_columns::<S>(sums, panel, lhs, data, slice.rhs.col_stride, cols);
            }
        }
        let accumulate = accumulate.at_col(col);
        for (row, sums) in sums.chunks_exact(panel).enumerate() {
            // SAFETY: the caller guarantees that nothing else accesses the result.
            let out = unsafe { slice.out_row(row) };
            accumulate.store(&mut out[col..col + cols], &sums[..cols]);
        }
    }
}

/// The left side: rows of contiguous numbers.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    stride: usize,
    rows: usize,
    inner: usize,
}

impl Left<'_> {
    /// The numbers `k..k + N` of one row.
    ///
    /// # Safety
    /// The row exists and has these numbers.
    #[inline(always)]
    unsafe fn numbers<const N: usize>(&self, row: usize, k: usize) -> &[f32; N] {
        debug_assert!(row < self.rows && k + N <= self.inner);
        // SAFETY: the caller guarantees that the row has these numbers.
        unsafe { &*self.data.as_ptr().add(row * self.stride + k).cast() }
    }
}

/// Adds to the sums of `cols` columns of a matrix with contiguous rows.
///
/// # Safety
/// The processor has the set. Each row of `matrix` begins `stride` after the one before and has `cols` numbers, for each
/// number of a row of the left side. `sums` has `panel` numbers, at least `cols`, for each row of the left side.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn add_rows<S: SimdF32>(
    sums: &mut [f32],
    panel: usize,
    lhs: Left<'_>,
    matrix: &[f32],
    stride: usize,
    cols: usize,
) {
    let whole = cols / S::LANES * S::LANES;
    let groups = lhs.inner / GROUP;
    for k in (0..groups * GROUP).step_by(GROUP) {
        for ahead in 0..GROUP {
            prefetch_numbers(matrix, (k + GROUP * AHEAD + ahead) * stride, cols);
        }
        for col in (0..whole).step_by(S::LANES) {
            // SAFETY: the rows `k..k + GROUP` of the matrix have a register's numbers from `col` on, and so has each
            // row of sums. The caller guarantees the instructions.
            unsafe {
                let from = matrix.as_ptr().add(k * stride + col);
                let mut right = [S::load_factors(from); GROUP];
                for (index, right) in right.iter_mut().enumerate().skip(1) {
                    *right = S::load_factors(from.add(index * stride));
                }
                for row in 0..lhs.rows {
                    let left = lhs.numbers::<GROUP>(row, k);
                    let at = sums.as_mut_ptr().add(row * panel + col);
                    let mut sum = S::load(at);
                    for index in 0..GROUP {
                        sum = S::multiply_add(S::splat(left[index]), right[index], sum);
                    }
                    S::store(at, sum);
                }
            }
        }
    }
    // The last columns, then the last rows.
    for row in 0..lhs.rows {
        let left = &lhs.data[row * lhs.stride..][..lhs.inner];
        let sums = &mut sums[row * panel..][..cols];
        for (k, &left) in left.iter().enumerate() {
            let first = if k < groups * GROUP { whole } else { 0 };
            for (sum, right) in sums[first..].iter_mut().zip(&matrix[k * stride + first..]) {
                *sum = left.mul_add(*right, *sum);
            }
        }
    }
}

/// Registers of columns whose sums are computed together.
const CHAINS: usize = 2;

/// Adds to the sums of `cols` contiguous columns, at most `CHAINS` registers of them. Square blocks are transposed: a
/// register then holds one number of as many columns as it has lanes.
///
/// # Safety
/// The processor has the set. Each of the `cols` columns of `matrix` begins `stride` after the one before and has as
/// many numbers as a row of the left side. `sums` has `panel` numbers, at least `cols`, for each row of the left side.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn add_columns<S: SimdF32>(
    sums: &mut [f32],
    panel: usize,
    lhs: Left<'_>,
    matrix: &[f32],
    stride: usize,
    cols: usize,
) {
    let (whole, blocks) = (cols / S::LANES * S::LANES, lhs.inner / S::LANES * S::LANES);
    for k in (0..blocks).step_by(S::LANES) {
        // As much of the next columns as this step takes from these.
        for col in 0..cols {
            prefetch_numbers(matrix, (cols + col) * stride + k, S::LANES);
        }
        for chain in (0..whole).step_by(S::LANES) {
            // SAFETY: the columns from `chain` on have a register's numbers from `k` on. Each row of sums has a
            // register's numbers from `chain` on. The caller guarantees the instructions.
            unsafe {
                let square = S::load_transposed(matrix.as_ptr().add(chain * stride + k), stride);
                for row in 0..lhs.rows {
                    let left = lhs.data.as_ptr().add(row * lhs.stride + k);
                    let at = sums.as_mut_ptr().add(row * panel + chain);
                    let mut sum = S::load(at);
                    for (index, &right) in square.as_ref().iter().enumerate() {
                        sum = S::multiply_add(S::splat(*left.add(index)), right, sum);
                    }
                    S::store(at, sum);
                }
            }
        }
    }
    for row in 0..lhs.rows {
        let left = &lhs.data[row * lhs.stride..][..lhs.inner];
        for (col, sum) in sums[row * panel..][..cols].iter_mut().enumerate() {
            let first = if col < whole { blocks } else { 0 };
            let right = &matrix[col * stride..][..lhs.inner];
            for (left, right) in left[first..].iter().zip(&right[first..]) {
                *sum = left.mul_add(*right, *sum);
            }
        }
    }
}
