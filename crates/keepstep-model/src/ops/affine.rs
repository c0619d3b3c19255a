//! A weight and its bias.

/// The two tensors of a linear layer or of a LayerNorm.
#[derive(Debug, Clone, Copy)]
pub struct Affine<S> {
    /// `[in, out]` in a linear layer, `[n]` in a LayerNorm.
    pub weight: S,
    /// `[out]` in a linear layer, `[n]` in a LayerNorm.
    pub bias: S,
}
