//! LayerNorm over the last dimension (Ba, Kiros and Hinton, 2016), as PyTorch computes it.

use crate::ops::affine::Affine;
use keepstep_numerics::reduce::sum;
use keepstep_numerics::vectorized;

/// Rows that are computed together.
const TOGETHER: usize = 8;

/// The mean and the reciprocal standard deviation of a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    mean: f32,
    rstd: f32,
}

/// Normalizes the rows of `[rows, cols]`, and writes their statistics.
pub fn forward(
    out: &mut [f32],
    statistics: &mut [Statistics],
    x: &[f32],
    affine: &Affine<&[f32]>,
    epsilon: f32,
) {
    normalize_rows(out, statistics, x, affine.weight, affine.bias, epsilon);
}

/// Normalizes one row.
pub(crate) fn normalize(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    normalize_rows(out, &mut [Statistics::default()], x, weight, bias, epsilon);
}

vectorized! {
    fn normalize_rows(
        out: &mut [f32], statistics: &mut [Statistics], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32,
    ) {
        let cols = weight.len();
        let bias = &bias[..cols];
        // Each step for some rows before the next one: a processor computes several rows at a time then.
        for first in (0..statistics.len()).step_by(TOGETHER) {
            let group = first..statistics.len().min(first + TOGETHER);
            let mut means = [0.0; TOGETHER];
            for row in group.clone() {
                means[row - first] = sum([&x[row * cols..(row + 1) * cols]], |[x]| x) / cols as f32;
            }
            for row in group.clone() {
                let mean = means[row - first];
                let squares = sum([&x[row * cols..(row + 1) * cols]], |[x]| (x - mean) * (x - mean));
                let rstd = 1.0 / (squares / cols as f32 + epsilon).sqrt();
                statistics[row] = Statistics { mean, rstd };
            }
            for row in group {
                let Statistics { mean, rstd } = statistics[row];
                let (out, x) = (&mut out[row * cols..(row + 1) * cols], &x[row * cols..(row + 1) * cols]);
                for col in 0..cols {
                    out[col] = ((x[col] - mean) * rstd).mul_add(weight[col], bias[col]);
                }
            }
        }
    }
}

vectorized! {
    /// Adds the gradient of the input to `dx`, and writes these rows' gradients of weight and bias, summed in row
    /// order.
    pub fn backward(
        dx: &mut [f32], dout: &[f32], x: &[f32], statistics: &[Statistics], weight: &[f32], dweight: &mut [f32],
        dbias: &mut [f32],
    ) {
        let cols = weight.len();
        let (dweight, dbias) = (&mut dweight[..cols], &mut dbias[..cols]);
        dweight.fill(0.0);
        dbias.fill(0.0);
        let mut means = [(0.0, 0.0); TOGETHER];
        for first in (0..statistics.len()).step_by(TOGETHER) {
            let group = first..statistics.len().min(first + TOGETHER);
            for (row, means) in group.clone().zip(&mut means) {
                let Statistics { mean, rstd } = statistics[row];
                let (dout, x) = (&dout[row * cols..(row + 1) * cols], &x[row * cols..(row + 1) * cols]);
                let of_d = sum([dout, weight], |[dout, weight]| dout * weight);
                let of_dn =
                    sum([dout, weight, x], |[dout, weight, x]| (dout * weight) * ((x - mean) * rstd));
                *means = (of_d / cols as f32, of_dn / cols as f32);
            }
            for (row, (mean_d, mean_dn)) in group.zip(means) {
                let Statistics { mean, rstd } = statistics[row];
                let (dout, x) = (&dout[row * cols..(row + 1) * cols], &x[row * cols..(row + 1) * cols]);
                let dx = &mut dx[row * cols..(row + 1) * cols];
                for col in 0..cols {
                    let normal = (x[col] - mean) * rstd;
                    let d = dout[col] * weight[col];
                    dx[col] += (d - mean_d - normal * mean_dn) * rstd;
                    dweight[col] += dout[col] * normal;
                    dbias[col] += dout[col];
                }
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
