//! The interface of an architecture that can be trained on the CPU.

use crate::engine::{Batch, DropoutKey, EngineError, LossSum};
use crate::layout::Layout;

/// The forward and backward pass of one architecture, with the buffers that they need. Parameters and gradients are
/// arguments, as flat buffers of the model's [`Layout`].
///
/// Every result has the same bits on any number of threads: threads share out elements, and never the terms of one sum.
pub trait Model: Send + Sized {
    /// Sizes, precision and limits of a model.
    type Spec;

    /// Allocates the buffers of a model.
    fn new(spec: &Self::Spec) -> Self;

    /// Returns the tensors of a model of this spec.
    fn layout(spec: &Self::Spec) -> Layout;

    /// Computes the bytes of a model's buffers.
    fn activations_bytes(spec: &Self::Spec) -> u64;

    /// Overwrites `gradient` with the gradient of the mean loss, and returns the sum of the losses.
    ///
    /// # Errors
    /// Fails if the batch does not fit the model. `gradient` is then unchanged.
    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_>,
        key: DropoutKey,
        gradient: &mut [f32],
    ) -> Result<LossSum, EngineError>;

    /// Computes the sum of the losses, without dropout.
    ///
    /// # Errors
    /// Fails if the batch does not fit the model.
    fn loss(&mut self, parameters: &[f32], batch: &Batch<'_>) -> Result<LossSum, EngineError>;
}
