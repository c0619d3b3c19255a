//! Linear layers: `y = x · weight + bias` with the weight as `[in, out]`.

use crate::numerics::product::packed::Packed;
use crate::numerics::product::{Into, Matrix, MatrixMut, Part, product};
use crate::numerics::products::Products;
use crate::numerics::vectorized::vectorized;
use crate::parameters::Affine;

/// `y = x · weight + bias` in float32, on all threads; the bias is what the products are added to.
pub(crate) fn forward(y: &mut [f32], x: &[f32], affine: &Affine<&[f32]>) {
    let (rows, ins, outs) = sizes(x, affine);
    product(
        MatrixMut::new(y, rows, outs),
        Into::Bias(affine.bias),
        Matrix::new(x, rows, ins),
        Matrix::new(affine.weight, ins, outs),
    );
}

/// The same on this thread alone, in the pass's precision.
///
/// # Safety
/// What is packed is the weight, and its packing is done.
pub(super) unsafe fn forward_rows(
    products: Products,
    y: &mut [f32],
    x: &[f32],
    affine: &Affine<&[f32]>,
    packed: Option<Packed<'_>>,
) {
    let (rows, ins, outs) = sizes(x, affine);
    let part = Part::whole(
        MatrixMut::new(y, rows, outs),
        Into::Bias(affine.bias),
        Matrix::new(x, rows, ins),
        Matrix::new(affine.weight, ins, outs),
    );
    // SAFETY: the caller's.
    products.compute(unsafe { part.with_packed(packed) });
}

/// `dx = dy · weightᵀ`, on this thread alone.
///
/// # Safety
/// What is packed is the weight's transpose, and its packing is done.
pub(super) unsafe fn backward_rows(
    products: Products,
    dx: &mut [f32],
    dy: &[f32],
    affine: &Affine<&[f32]>,
    packed: Option<Packed<'_>>,
) {
    let outs = affine.bias.len();
    let ins = affine.weight.len() / outs;
    let rows = dy.len() / outs;
    let part = Part::whole(
        MatrixMut::new(dx, rows, ins),
        Into::Replace,
        Matrix::new(dy, rows, outs),
        Matrix::new(affine.weight, ins, outs).transposed(),
    );
    // SAFETY: the caller's.
    products.compute(unsafe { part.with_packed(packed) });
}

fn sizes(x: &[f32], affine: &Affine<&[f32]>) -> (usize, usize, usize) {
    let outs = affine.bias.len();
    let ins = affine.weight.len() / outs;
    (x.len() / ins, ins, outs)
}

vectorized! {
    /// The sum over the rows of `[rows, out.len()]`, in order.
    pub(super) fn column_sums(out: &mut [f32], values: &[f32]) {
        let cols = out.len();
        out.fill(0.0);
        for row in values.chunks_exact(cols) {
            for (sum, value) in out.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}
