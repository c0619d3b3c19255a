//! Sums of rows.

use keepstep_numerics::vectorized;

vectorized! {
    /// Adds `values` to `sum`, element by element, up to the end of the shorter one.
    pub(crate) fn add_to(sum: &mut [f32], values: &[f32]) {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += value;
        }
    }
}
