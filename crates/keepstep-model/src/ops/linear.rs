//! Linear layers: `y = x · weight + bias` with the weight as `[in, out]`.

use crate::ops::affine::Affine;
use keepstep_numerics::matmul::MatmulKind;
use keepstep_numerics::matmul::PackedMatrix;
use keepstep_numerics::matmul::{Accumulate, MatmulTask, Matrix, MatrixMut};
use keepstep_numerics::vectorized;

/// Returns the weight as a matrix `[in, out]`.
pub(crate) fn weight<'a>(affine: &Affine<&'a [f32]>) -> Matrix<'a> {
    let outs = affine.bias.len();
    Matrix::new(affine.weight, affine.weight.len() / outs, outs)
}

/// Computes `y = x · weight + bias` on this thread alone, in the pass's precision.
///
/// # Panics
/// If `packed` is given and holds another matrix, or not all its pack tasks are done.
pub(crate) fn forward_rows(
    kind: MatmulKind,
    y: &mut [f32],
    x: &[f32],
    affine: &Affine<&[f32]>,
    packed: Option<&PackedMatrix<'_>>,
) {
    let (weight, outs) = (weight(affine), affine.bias.len());
    let rows = x.len() / weight.rows();
    let x = Matrix::new(x, rows, weight.rows());
    let task = MatmulTask::new(MatrixMut::new(y, rows, outs), Accumulate::Bias(affine.bias), x, weight);
    kind.run(task.with_packed(packed));
}

/// Computes `dx = dy · weightᵀ` on this thread alone.
///
/// # Panics
/// If `packed` is given and holds another matrix than the transpose, or not all its pack tasks are done.
pub(crate) fn backward_rows(
    kind: MatmulKind,
    dx: &mut [f32],
    dy: &[f32],
    affine: &Affine<&[f32]>,
    packed: Option<&PackedMatrix<'_>>,
) {
    let (weight, outs) = (weight(affine), affine.bias.len());
    let rows = dy.len() / outs;
    let dy = Matrix::new(dy, rows, outs);
    let task = MatmulTask::new(
        MatrixMut::new(dx, rows, weight.rows()),
        Accumulate::Replace,
        dy,
        weight.transposed(),
    );
    kind.run(task.with_packed(packed));
}

vectorized! {
    /// Sums the rows of `[rows, out.len()]`, in order.
    pub(crate) fn column_sums(out: &mut [f32], values: &[f32]) {
        let cols = out.len();
        out.fill(0.0);
        for row in values.chunks_exact(cols) {
            for (sum, value) in out.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}
