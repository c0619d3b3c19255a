//! The softmax of a row, computed one block at a time.

/// The running softmax of a row over the keys that it has seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowSoftmax {
    /// The largest scaled score.
    pub(crate) largest: f32,
    /// The sum of exp(score - largest). In a finished row, its reciprocal.
    pub(crate) total: f32,
}

impl RowSoftmax {
    pub(crate) const EMPTY: RowSoftmax = RowSoftmax { largest: f32::NEG_INFINITY, total: 0.0 };
}
