//! A right side with contiguous columns: square blocks are transposed in registers.

use super::{Left, Right};
use crate::matmul::prefetch::prefetch;
use crate::matmul::simd::SimdF32;

/// How far ahead numbers of a contiguous column are asked for.
const AHEAD: usize = 256;

/// Adds to the sums of contiguous columns. Square blocks are transposed: a register then holds one number of as many
/// columns as it has lanes.
///
/// # Safety
/// The processor has the set. Both sides are as their types tell. `sums` has `panel` numbers for each row of the left
/// side, at least as many as there are columns.
#[inline(always)]
pub(super) unsafe fn add<S: SimdF32>(sums: &mut [f32], panel: usize, lhs: Left<'_>, rhs: Right<'_>) {
    let (whole, steps) = (rhs.cols / S::LANES * S::LANES, lhs.inner / S::LANES * S::LANES);
    for k in (0..steps).step_by(S::LANES) {
        for col in 0..rhs.cols {
            prefetch(rhs.data.as_ptr().wrapping_add(col * rhs.stride + k + AHEAD));
        }
        for col in (0..whole).step_by(S::LANES) {
            // SAFETY: the rows of each case exist. They, their sums and the columns have a register's numbers. The
            // caller guarantees the instructions.
            unsafe {
                let square = S::load_transposed(rhs.data.as_ptr().add(col * rhs.stride + k), rhs.stride);
                let mut row = 0;
                while row < lhs.rows {
                    let left = lhs.data.as_ptr().add(row * lhs.stride + k);
                    let sums = sums.as_mut_ptr().add(row * panel + col);
                    row += match lhs.rows - row {
                        1 => add_square::<S, 1>(sums, panel, left, lhs.stride, &square),
                        2 | 3 => add_square::<S, 2>(sums, panel, left, lhs.stride, &square),
                        4..8 => add_square::<S, 4>(sums, panel, left, lhs.stride, &square),
                        _ => add_square::<S, 8>(sums, panel, left, lhs.stride, &square),
                    };
                }
            }
        }
    }
    if whole == rhs.cols && steps == lhs.inner {
        return;
    }
    // All numbers of the last columns, and the last numbers of all columns.
    for (row, sums) in sums.chunks_exact_mut(panel).enumerate() {
        let left = &lhs.data[row * lhs.stride..][..lhs.inner];
        for (col, sum) in sums[..rhs.cols].iter_mut().enumerate() {
            let first = if col < whole { steps } else { 0 };
            let right = &rhs.data[col * rhs.stride..][..lhs.inner];
            for (left, right) in left[first..].iter().zip(&right[first..]) {
                *sum = left.mul_add(*right, *sum);
            }
        }
    }
}

/// Adds the steps of a transposed block to `ROWS` rows. Returns the number of rows.
///
/// # Safety
/// The processor has the set. Each row of the left side and of the sums has a register's numbers.
#[inline(always)]
unsafe fn add_square<S: SimdF32, const ROWS: usize>(
    to: *mut f32,
    panel: usize,
    lhs: *const f32,
    lhs_stride: usize,
    square: &S::Square,
) -> usize {
    // SAFETY: the caller guarantees the numbers and the instructions.
    unsafe {
        let mut sums = [S::zero(); ROWS];
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum = S::load(to.add(row * panel));
        }
        for (k, &right) in square.as_ref().iter().enumerate() {
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = S::multiply_add(S::splat(*lhs.add(row * lhs_stride + k)), right, *sum);
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            S::store(to.add(row * panel), sum);
        }
    }
    ROWS
}
