//! Linear layers: `y = x · weight + bias` with the weight as `[in, out]`.

use super::ROWS;
use crate::numerics::product::{Into, Matrix, MatrixMut, product};
use crate::numerics::vectorized::vectorized;
use crate::parameters::Affine;
use rayon::prelude::*;

/// `y = x · weight + bias`; the bias is what the products are added to.
pub(crate) fn forward(y: &mut [f32], x: &[f32], affine: &Affine<&[f32]>) {
    let outs = affine.bias.len();
    let ins = affine.weight.len() / outs;
    let rows = x.len() / ins;
    y.par_chunks_mut(ROWS * outs).for_each(|y| {
        for row in y.chunks_mut(outs) {
            row.copy_from_slice(affine.bias);
        }
    });
    product(
        MatrixMut::new(y, rows, outs),
        Into::Add,
        Matrix::new(x, rows, ins),
        Matrix::new(affine.weight, ins, outs),
    );
}

/// Writes the gradients of `x`, weight and bias.
pub(super) fn backward(
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    gradient: &mut Affine<&mut [f32]>,
) {
    let outs = gradient.bias.len();
    let ins = weight.len() / outs;
    let rows = x.len() / ins;
    column_sums(gradient.bias, dy);
    let dy = Matrix::new(dy, rows, outs);
    product(
        MatrixMut::new(gradient.weight, ins, outs),
        Into::Replace,
        Matrix::new(x, rows, ins).transposed(),
        dy,
    );
    product(MatrixMut::new(dx, rows, ins), Into::Replace, dy, Matrix::new(weight, ins, outs).transposed());
}

/// Columns that one task sums.
const STRIP: usize = 64;
/// Rows that are summed by themselves before their sum is added to the rest.
const BLOCK: usize = 64;

/// The sum over the rows of `[rows, cols]`: rows in order, in blocks.
pub(super) fn column_sums(out: &mut [f32], values: &[f32]) {
    let cols = out.len();
    out.par_chunks_mut(STRIP)
        .enumerate()
        .for_each(|(strip, out)| sum_strip(out, values, cols, strip * STRIP));
}

vectorized! {
    fn sum_strip(out: &mut [f32], values: &[f32], cols: usize, first: usize) {
        let width = out.len();
        out.fill(0.0);
        for block in values.chunks(BLOCK * cols) {
            let mut sums = [0.0_f32; STRIP];
            for row in block.chunks(cols) {
                let row = &row[first..first + width];
                if width == STRIP {
                    for lane in 0..STRIP {
                        sums[lane] += row[lane];
                    }
                } else {
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
            }
            for (out, sum) in out.iter_mut().zip(&sums) {
                *out += sum;
            }
        }
    }
}
