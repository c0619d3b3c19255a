//! The definition of a matmul: the rounded operations that make an element, and their order.

/// The length of a slice of the inner dimension. Each slice is summed separately.
///
/// The `gemm` crate, which tests compare with, cuts the inner dimension by the sizes of caches, but never below this
/// length: it leaves a slice whole.
pub(crate) const SLICE: usize = 512;

/// The definition, word for word. Kernels are tested against it.
#[cfg(test)]
pub(crate) fn reference(
    out: &mut [f32],
    out_stride: usize,
    accumulate: super::Accumulate<'_>,
    lhs: super::Matrix<'_>,
    rhs: super::Matrix<'_>,
) {
    use super::Accumulate;
    for row in 0..lhs.rows {
        for col in 0..rhs.cols {
            let mut total = match accumulate {
                Accumulate::Replace => None,
                Accumulate::Add => Some(out[row * out_stride + col]),
                Accumulate::Bias(bias) => Some(bias[col]),
            };
            for start in (0..lhs.cols).step_by(SLICE) {
                let mut sum = 0.0_f32;
                for k in start..lhs.cols.min(start + SLICE) {
                    let left = lhs.data[row * lhs.row_stride + k * lhs.col_stride];
                    let right = rhs.data[k * rhs.row_stride + col * rhs.col_stride];
                    sum = left.mul_add(right, sum);
                }
                total = Some(total.map_or(sum, |total| total + sum));
            }
            out[row * out_stride + col] = total.unwrap_or(0.0);
        }
    }
}
