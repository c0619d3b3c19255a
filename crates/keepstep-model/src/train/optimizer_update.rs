//! One update of an engine's state. Training, dry runs and benchmarks all use this sequence of calls.

use crate::engine::{Batch, DropoutKey, Engine, EngineError, LossSum, OptimizerStep};
use crate::train::gradient_tree::clip_coefficient;
use crate::train::leaf_losses::LeafLosses;

/// An unfinished update. Dropping it before [`finish`](OptimizerUpdate::finish) discards its gradients.
pub struct OptimizerUpdate<'e> {
    engine: &'e mut dyn Engine,
    seed: u64,
    global_step: u64,
    losses: LeafLosses,
}

/// The results of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct UpdateOutcome {
    /// The losses of all micro-batches.
    pub loss: LossSum,
    /// The norm of the mean gradient before clipping.
    pub grad_norm: f64,
}

impl<'e> OptimizerUpdate<'e> {
    /// Begins the update that follows `global_step` completed ones. Dropout masks depend on `seed`.
    pub fn begin(engine: &'e mut dyn Engine, seed: u64, global_step: u64) -> OptimizerUpdate<'e> {
        OptimizerUpdate { engine, seed, global_step, losses: LeafLosses::default() }
    }

    /// Computes the next micro-batch.
    ///
    /// # Errors
    /// Fails for the same reasons as [`Engine::accumulate`].
    pub fn accumulate(&mut self, batch: &Batch<'_>) -> Result<LossSum, EngineError> {
        let leaf = self.losses.len();
        let key = DropoutKey { seed: self.seed, global_step: self.global_step, micro_batch: leaf };
        let loss = self.engine.accumulate(batch, key, leaf)?;
        self.losses.insert(leaf, loss)?;
        Ok(loss)
    }

    /// Clips the mean gradient to `max_grad_norm` (0 turns clipping off) and makes the optimizer step, with every
    /// learning rate multiplied by `factor`. Before anything changes, `check` receives the mean loss and the gradient's
    /// norm. If it fails, the update is discarded.
    ///
    /// # Errors
    /// Returns the error of `check` or of the engine.
    pub fn finish<E: From<EngineError>>(
        self,
        factor: f64,
        max_grad_norm: f64,
        check: impl FnOnce(f64, f64) -> Result<(), E>,
    ) -> Result<UpdateOutcome, E> {
        let loss = self.losses.total()?;
        let grad_norm = self.engine.reduce()?;
        check(loss.mean(), grad_norm)?;
        let clip = if max_grad_norm > 0.0 { clip_coefficient(grad_norm, max_grad_norm) } else { 1.0 };
        self.engine.step(OptimizerStep::new(clip, factor));
        Ok(UpdateOutcome { loss, grad_norm })
    }
}

impl Drop for OptimizerUpdate<'_> {
    fn drop(&mut self) {
        self.engine.discard();
    }
}
