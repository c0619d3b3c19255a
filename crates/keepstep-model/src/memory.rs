//! The memory that an engine takes.

/// The memory that an engine takes, in bytes, by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Memory {
    /// Parameters.
    pub weights_bytes: u64,
    /// The optimizer's two moments.
    pub moments_bytes: u64,
    /// Gradients: the largest number of buffers that an update's gradient tree holds.
    pub gradients_bytes: u64,
    /// A second copy of parameters and moments, which lets training continue while a snapshot is being saved.
    pub spare_bytes: u64,
    /// Activations that the forward pass keeps for the backward pass, and scratch buffers.
    pub activations_bytes: u64,
}

impl Memory {
    /// Returns the sum of all parts.
    pub fn total_bytes(&self) -> u64 {
        let Memory { weights_bytes, moments_bytes, gradients_bytes, spare_bytes, activations_bytes } = *self;
        weights_bytes + moments_bytes + gradients_bytes + spare_bytes + activations_bytes
    }
}
