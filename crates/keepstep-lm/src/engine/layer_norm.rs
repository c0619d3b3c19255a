//! LayerNorm over the last dimension (Ba, Kiros and Hinton, 2016), as PyTorch computes it.

use super::ROWS;
use super::linear::column_sums;
use crate::numerics::reduce::sum;
use crate::numerics::vectorized::vectorized;
use crate::parameters::Affine;
use rayon::prelude::*;

/// Mean and reciprocal standard deviation of a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Statistics {
    mean: f32,
    rstd: f32,
}

/// Normalizes the rows of `[rows, cols]`, and keeps their statistics.
pub(super) fn forward(
    out: &mut [f32],
    statistics: &mut [Statistics],
    x: &[f32],
    affine: &Affine<&[f32]>,
    epsilon: f32,
) {
    let cols = affine.weight.len();
    out.par_chunks_mut(ROWS * cols)
        .zip(x.par_chunks(ROWS * cols))
        .zip(statistics.par_chunks_mut(ROWS))
        .for_each(|((out, x), statistics)| {
            for ((out, x), statistics) in out.chunks_mut(cols).zip(x.chunks(cols)).zip(statistics) {
                *statistics = normalize(out, x, affine.weight, affine.bias, epsilon);
            }
        });
}

/// Adds the gradient of the input to `dx`, and replaces `dout` by what the weight's gradient sums up; writes the
/// gradients of weight and bias.
pub(super) fn backward(
    dx: &mut [f32],
    dout: &mut [f32],
    x: &[f32],
    statistics: &[Statistics],
    weight: &[f32],
    gradient: &mut Affine<&mut [f32]>,
) {
    let cols = weight.len();
    column_sums(gradient.bias, dout);
    dx.par_chunks_mut(ROWS * cols)
        .zip(dout.par_chunks_mut(ROWS * cols))
        .zip(x.par_chunks(ROWS * cols))
        .zip(statistics.par_chunks(ROWS))
        .for_each(|(((dx, dout), x), statistics)| {
            let rows = dx.chunks_mut(cols).zip(dout.chunks_mut(cols)).zip(x.chunks(cols)).zip(statistics);
            for (((dx, dout), x), statistics) in rows {
                backward_row(dx, dout, x, *statistics, weight);
            }
        });
    column_sums(gradient.weight, dout);
}

vectorized! {
    /// Normalizes one row.
    pub(crate) fn normalize(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Statistics {
        let cols = x.len();
        let (out, weight, bias) = (&mut out[..cols], &weight[..cols], &bias[..cols]);
        let mean = sum(cols, |col| x[col]) / cols as f32;
        let variance = sum(cols, |col| (x[col] - mean) * (x[col] - mean)) / cols as f32;
        let rstd = 1.0 / (variance + epsilon).sqrt();
        for col in 0..cols {
            out[col] = ((x[col] - mean) * rstd).mul_add(weight[col], bias[col]);
        }
        Statistics { mean, rstd }
    }
}

vectorized! {
    fn backward_row(dx: &mut [f32], dout: &mut [f32], x: &[f32], statistics: Statistics, weight: &[f32]) {
        let cols = x.len();
        let (dx, dout, weight) = (&mut dx[..cols], &mut dout[..cols], &weight[..cols]);
        let Statistics { mean, rstd } = statistics;
        let normal = |col: usize| (x[col] - mean) * rstd;
        let mean_d = sum(cols, |col| dout[col] * weight[col]) / cols as f32;
        let mean_dn = sum(cols, |col| (dout[col] * weight[col]) * normal(col)) / cols as f32;
        for col in 0..cols {
            let d = dout[col] * weight[col];
            dx[col] += (d - mean_d - normal(col) * mean_dn) * rstd;
            dout[col] *= normal(col);
        }
    }
}
