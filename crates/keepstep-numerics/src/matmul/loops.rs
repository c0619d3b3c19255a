//! Matmuls in plain loops: for a result of one row, and for everything where no kernel of ours fits the processor. The
//! bits are the same; only the speed differs.

use super::matrix::{Accumulate, Matrix};
use super::problem::Problem;
use crate::vectorized;

/// Columns whose sums are computed together.
const WIDTH: usize = 64;

/// One slice of the inner dimension.
///
/// # Safety
/// Nothing else accesses the result during the call.
pub(super) unsafe fn run(slice: &Problem<'_>, accumulate: Accumulate<'_>) {
    for row in 0..slice.rows {
        // SAFETY: the caller guarantees that nothing else accesses the result.
        let out = unsafe { slice.out_row(row) };
        let lhs = &slice.lhs.data[row * slice.lhs.row_stride..];
        let (stride, rhs) = (slice.lhs.col_stride, slice.rhs);
        if rhs.col_stride == 1 {
            row_by_matrix(out, accumulate, lhs, stride, rhs.data, rhs.row_stride, rhs.rows);
        } else {
            row_by_columns(out, accumulate, lhs, stride, rhs);
        }
    }
}

vectorized! {
    /// One row of the result, where the right side has contiguous rows.
    fn row_by_matrix(
        out: &mut [f32], accumulate: Accumulate<'_>, lhs: &[f32], lhs_stride: usize, rhs: &[f32], rhs_stride: usize,
        inner: usize,
    ) {
        for (block, out) in out.chunks_mut(WIDTH).enumerate() {
            let width = out.len();
            let mut sums = [0.0_f32; WIDTH];
            for k in 0..inner {
                let left = lhs[k * lhs_stride];
                let start = k * rhs_stride + block * WIDTH;
                let right = &rhs[start..start + width];
                if width == WIDTH {
                    for lane in 0..WIDTH {
                        sums[lane] = left.mul_add(right[lane], sums[lane]);
                    }
                } else {
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = left.mul_add(*right, *sum);
                    }
                }
            }
            accumulate.at_col(block * WIDTH).store(out, &sums);
        }
    }
}

vectorized! {
    /// One row of the result, where the right side has contiguous columns: several chains at a time.
    fn row_by_columns(out: &mut [f32], accumulate: Accumulate<'_>, lhs: &[f32], lhs_stride: usize, rhs: Matrix<'_>) {
        const CHAINS: usize = 8;
        for (block, out) in out.chunks_mut(CHAINS).enumerate() {
            let mut sums = [0.0_f32; CHAINS];
            let mut starts = [0; CHAINS];
            for (chain, start) in starts.iter_mut().enumerate() {
                *start = (block * CHAINS + chain.min(out.len() - 1)) * rhs.col_stride;
            }
            for k in 0..rhs.rows {
                let left = lhs[k * lhs_stride];
                for chain in 0..CHAINS {
                    sums[chain] = left.mul_add(rhs.data[starts[chain] + k * rhs.row_stride], sums[chain]);
                }
            }
            accumulate.at_col(block * CHAINS).store(out, &sums);
        }
    }
}
