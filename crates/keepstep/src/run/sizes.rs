//! The sizes of a run, which a training loop determines.

use crate::position::Length;

/// The sizes of a run that a training loop determines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sizes {
    /// Micro-batches per epoch, at least 1.
    pub steps_per_epoch: u64,
    /// Micro-batches per optimizer update, at least 1.
    pub gradient_accumulation_steps: u64,
    /// The length of the run.
    pub length: Length,
}

impl Sizes {
    /// Trains whole epochs, with one micro-batch per update.
    pub fn new(steps_per_epoch: u64, epochs: u64) -> Sizes {
        let length = Length { epochs, total_steps: None };
        Sizes { steps_per_epoch, gradient_accumulation_steps: 1, length }
    }

    /// Sets the number of micro-batches per update.
    #[must_use]
    pub fn with_gradient_accumulation(self, gradient_accumulation_steps: u64) -> Sizes {
        Sizes { gradient_accumulation_steps, ..self }
    }

    /// Ends the run at this global step, even within an epoch.
    #[must_use]
    pub fn with_total_steps(self, total_steps: Option<u64>) -> Sizes {
        Sizes { length: Length { total_steps, ..self.length }, ..self }
    }
}
