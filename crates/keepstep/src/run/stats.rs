//! Numbers that a loop reports about one update.

/// Numbers about one update. All of them are optional.
///
/// ```
/// use keepstep::run::UpdateStats;
///
/// let whole = UpdateStats::new(12.5, 5).with_learning_rate(5e-4).with_grad_norm(0.7);
/// assert_eq!(whole.loss(), Some(2.5));
/// assert_eq!(UpdateStats::default().loss(), None, "no loss is reported");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct UpdateStats {
    /// The sum of the losses of the update's tokens (or samples).
    pub loss_sum: f64,
    /// Number of those tokens (or samples). 0 if no loss is reported.
    pub num_tokens: u64,
    /// The learning rate that was used.
    pub learning_rate: Option<f64>,
    /// The gradient's global norm before clipping.
    pub grad_norm: Option<f64>,
    /// Whether a gradient scaler skipped the optimizer step, because a gradient was not finite. The update is
    /// counted anyway.
    pub skipped: bool,
}

impl UpdateStats {
    /// Reports the sum of the losses of `num_tokens` tokens.
    pub fn new(loss_sum: f64, num_tokens: u64) -> UpdateStats {
        UpdateStats { loss_sum, num_tokens, ..UpdateStats::default() }
    }

    /// Adds the learning rate that was used.
    #[must_use]
    pub fn with_learning_rate(self, learning_rate: f64) -> UpdateStats {
        UpdateStats { learning_rate: Some(learning_rate), ..self }
    }

    /// Adds the gradient's global norm before clipping.
    #[must_use]
    pub fn with_grad_norm(self, grad_norm: f64) -> UpdateStats {
        UpdateStats { grad_norm: Some(grad_norm), ..self }
    }

    /// Marks an update whose optimizer step a gradient scaler skipped.
    #[must_use]
    pub fn with_skipped(self, skipped: bool) -> UpdateStats {
        UpdateStats { skipped, ..self }
    }

    /// Computes the mean loss. None if no loss is reported.
    pub fn loss(&self) -> Option<f64> {
        (self.num_tokens > 0).then(|| self.loss_sum / self.num_tokens as f64)
    }
}
