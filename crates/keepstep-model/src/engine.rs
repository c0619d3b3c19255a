//! One micro-batch's loss and gradients, forward and backward written out for exactly this model.
//!
//! Everything that this computes has the same bits on every processor and any number of threads: each element of each
//! buffer is one defined expression, and threads share out elements, never a sum.

pub use crate::ops::dropout::DropoutKey;

/// What computes losses and gradients; a GPU's engine can stand beside the processor's.
pub trait Engine {
    /// Writes the gradient of the mean loss over the micro-batch's target tokens, and gives the sum of their losses.
    ///
    /// `parameters` and `gradient` are flat buffers of the model's [`Layout`](crate::layout::Layout); `tokens` is
    /// `[batch_size, block_size + 1]`, whose last `block_size` columns are the targets of the first.
    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        tokens: &[u32],
        dropout: DropoutKey,
        gradient: &mut [f32],
    ) -> LossSum;

    /// The sum of the losses of a micro-batch, without dropout.
    fn loss(&mut self, parameters: &[f32], tokens: &[u32]) -> LossSum;
}

/// The losses of some tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSum {
    /// Their sum, in nats.
    pub sum: f64,
    /// How many tokens.
    pub num_tokens: u64,
}

impl LossSum {
    /// Adds another sum to this one.
    pub fn add(&mut self, other: LossSum) {
        self.sum += other.sum;
        self.num_tokens += other.num_tokens;
    }

    /// Loss per token.
    pub fn mean(&self) -> f64 {
        self.sum / self.num_tokens.max(1) as f64
    }
}
