//! What an architecture provides for training on the CPU.

use crate::engine::{Batch, DropoutKey, EngineError, LossSum};
use crate::layout::Layout;

/// The forward and backward pass of one architecture, with the buffers that they need. Parameters and gradients come from
/// outside, as flat buffers of the model's [`Layout`].
///
/// Every result has the same bits on any number of threads: threads divide elements among themselves, never a sum.
pub trait Model: Send + Sized {
    /// Sizes, precision and limits.
    type Spec;

    /// Allocates the buffers of a model.
    fn new(spec: &Self::Spec) -> Self;

    /// The tensors of such a model.
    fn layout(spec: &Self::Spec) -> Layout;

    /// The bytes that the buffers of such a model take.
    fn activations_bytes(spec: &Self::Spec) -> u64;

    /// Overwrites `gradient` with that of the mean loss, and returns the sum of the losses.
    ///
    /// # Errors
    /// A batch that does not fit the model; `gradient` is unchanged then.
    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_>,
        key: DropoutKey,
        gradient: &mut [f32],
    ) -> Result<LossSum, EngineError>;

    /// The sum of the losses, without dropout.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    fn loss(&mut self, parameters: &[f32], batch: &Batch<'_>) -> Result<LossSum, EngineError>;
}
