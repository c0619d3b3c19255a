//! Products in plain loops: of one row, and of everything on processors without AVX2 and FMA. Slow there, but the same
//! bits.

use super::{Into, Matrix};
use crate::vectorized;

/// Columns that are computed side by side.
const WIDTH: usize = 32;

vectorized! {
    /// One row of a result whose right side lies in rows.
    pub(super) fn row_by_matrix(
        out: &mut [f32], into: Into<'_>, lhs: &[f32], lhs_stride: usize, rhs: &[f32], rhs_stride: usize, inner: usize,
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
            into.from(block * WIDTH).store(out, &sums);
        }
    }
}

vectorized! {
    /// One row of a result whose right side lies in columns: several chains at a time.
    pub(super) fn row_by_rows(out: &mut [f32], into: Into<'_>, lhs: &[f32], lhs_stride: usize, rhs: Matrix<'_>) {
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
            into.from(block * CHAINS).store(out, &sums);
        }
    }
}
