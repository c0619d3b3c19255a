//! LayerNorm over the last dimension (Ba, Kiros and Hinton, 2016), as PyTorch computes it.

use crate::ops::affine::Affine;
use keepstep_numerics::reduce::sum;
use keepstep_numerics::vectorized;

/// The mean and the reciprocal standard deviation of a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Statistics {
    mean: f32,
    rstd: f32,
}

/// Normalizes the rows of `[rows, cols]`, and writes their statistics.
pub(crate) fn forward(
    out: &mut [f32],
    statistics: &mut [Statistics],
    x: &[f32],
    affine: &Affine<&[f32]>,
    epsilon: f32,
) {
    let cols = affine.weight.len();
    for ((out, x), statistics) in out.chunks_mut(cols).zip(x.chunks(cols)).zip(statistics) {
        *statistics = normalize(out, x, affine.weight, affine.bias, epsilon);
    }
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
    /// Adds the gradient of the input to `dx`, and writes these rows' gradients of weight and bias, summed in row
    /// order.
    pub(crate) fn backward(
        dx: &mut [f32], dout: &[f32], x: &[f32], statistics: &[Statistics], weight: &[f32], dweight: &mut [f32],
        dbias: &mut [f32],
    ) {
        let cols = weight.len();
        let (dweight, dbias) = (&mut dweight[..cols], &mut dbias[..cols]);
        dweight.fill(0.0);
        dbias.fill(0.0);
        let rows = dx.chunks_exact_mut(cols).zip(dout.chunks_exact(cols)).zip(x.chunks_exact(cols)).zip(statistics);
        for (((dx, dout), x), statistics) in rows {
            let Statistics { mean, rstd } = *statistics;
            let normal = |col: usize| (x[col] - mean) * rstd;
            let mean_d = sum(cols, |col| dout[col] * weight[col]) / cols as f32;
            let mean_dn = sum(cols, |col| (dout[col] * weight[col]) * normal(col)) / cols as f32;
            for col in 0..cols {
                let d = dout[col] * weight[col];
                dx[col] += (d - mean_d - normal(col) * mean_dn) * rstd;
                dweight[col] += dout[col] * normal(col);
                dbias[col] += dout[col];
            }
        }
    }
}

vectorized! {
    /// Computes the output again from the statistics.
    pub(crate) fn again(out: &mut [f32], x: &[f32], statistics: &[Statistics], weight: &[f32], bias: &[f32]) {
        let cols = weight.len();
        let bias = &bias[..cols];
        for ((out, x), statistics) in out.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).zip(statistics) {
            for col in 0..cols {
                out[col] = ((x[col] - statistics.mean) * statistics.rstd).mul_add(weight[col], bias[col]);
            }
        }
    }
}
