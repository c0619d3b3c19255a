//! The engine, with the micro-batches, the schedule and the clipping of its updates.

use super::error::TrainError;
use crate::config::{Config, Precision};
use keepstep::checkpoint::{Checkpoint, State};
use keepstep::order::Order;
use keepstep::position::Update;
use keepstep_model::engine::{Batch, Engine, EngineError, EngineSpec, LossSum};
use keepstep_model::gpt2::{CpuEngine, Gpt2Config, Gpt2Spec};
use keepstep_model::train::adamw::ParamGroup;
use keepstep_model::train::optimizer_update::OptimizerUpdate;
use keepstep_model::train::schedule::Schedule;
use keepstep_model::train::state_dict::{self, StateDictError};
use keepstep_model::train::train_state::TrainState;
use keepstep_text::corpus::Corpus;

/// An engine, and everything that determines its updates.
pub(super) struct Learner {
    config: Config,
    engine: Box<dyn Engine>,
    groups: Vec<ParamGroup>,
    schedule: Schedule,
    tokens: Vec<u32>,
}

/// The result of one update.
pub(super) struct UpdateOutcome {
    pub(super) loss: LossSum,
    pub(super) learning_rate: f64,
    /// The norm of the whole gradient before clipping.
    pub(super) grad_norm: f64,
}

/// Describes the engine that trains a config's model.
pub(super) fn engine_spec(config: &Config, model: &Gpt2Config, precision: Precision) -> EngineSpec<Gpt2Spec> {
    let mut gpt2 = Gpt2Spec::new(*model, config.batch_size);
    gpt2.recompute_activations = config.recompute_activations;
    gpt2.precision = precision;
    let mut spec = EngineSpec::new(gpt2);
    spec.gradient_accumulation_steps = config.gradient_accumulation_steps;
    spec.has_spare = config.background_saving;
    spec
}

/// Reads a checkpoint's state into `state`.
pub(super) fn restore(
    state: &mut TrainState,
    checkpoint: &Checkpoint,
    groups: &[ParamGroup],
    schedule: &Schedule,
) -> Result<(), StateDictError> {
    state.restore(checkpoint, groups)?;
    let global_step = checkpoint.position.global_step;
    let scheduler = checkpoint.state.part("scheduler");
    state_dict::check_scheduler(scheduler, groups, global_step, schedule.factor(global_step))
}

impl Learner {
    /// Creates a learner that continues from `state`.
    pub(super) fn new(
        config: &Config,
        spec: &EngineSpec<Gpt2Spec>,
        schedule: Schedule,
        groups: Vec<ParamGroup>,
        state: TrainState,
    ) -> Result<Learner, EngineError> {
        Ok(Learner {
            config: config.clone(),
            engine: Box::new(CpuEngine::new(spec, groups.clone(), state)?),
            groups,
            schedule,
            tokens: Vec::new(),
        })
    }

    pub(super) fn num_parameters(&self) -> usize {
        self.engine.layout().num_parameters()
    }

    /// Returns the engine's state, which shares its buffers. Drop it before the next update; otherwise the update needs
    /// more memory.
    pub(super) fn snapshot(&mut self) -> Result<TrainState, EngineError> {
        self.engine.snapshot()
    }

    /// Reports whether an update can run without copying state that is being saved.
    pub(super) fn can_step(&mut self) -> bool {
        self.engine.can_step()
    }

    /// Returns the three state dicts after `global_step` updates, from a snapshot.
    pub(super) fn state(&mut self, global_step: u64) -> Result<State, EngineError> {
        Ok(self.engine.snapshot()?.state(&self.groups, &self.schedule, global_step))
    }

    /// Makes one update. `check` receives the mean loss and the gradient's norm before anything changes. If it fails,
    /// nothing changes.
    pub(super) fn update(
        &mut self,
        corpus: &Corpus,
        order: &Order,
        update: &Update,
        check: impl FnOnce(f64, f64) -> Result<(), TrainError>,
    ) -> Result<UpdateOutcome, TrainError> {
        let Learner { config, engine, groups, schedule, tokens } = self;
        let batch_size = config.batch_size as u64;
        let mut micro_batches = OptimizerUpdate::begin(engine.as_mut(), config.seed, update.global_step);
        for step in update.micro_batches.clone() {
            tokens.clear();
            let first = step * batch_size;
            for place in first..first + batch_size {
                corpus.train_window(order.sample(place), tokens)?;
            }
            // The next micro-batch's windows are scattered: the disk reads them while this micro-batch is computed.
            let next = first + batch_size;
            for place in next..(next + batch_size).min(corpus.num_train_windows()) {
                corpus.will_need(order.sample(place));
            }
            micro_batches.accumulate(&Batch::new(tokens))?;
        }
        let factor = schedule.factor(update.global_step);
        let outcome = micro_batches.finish(factor, config.optimizer.max_grad_norm, check)?;
        let learning_rate = groups.first().map_or(0.0, |group| group.learning_rate * factor);
        Ok(UpdateOutcome { loss: outcome.loss, learning_rate, grad_norm: outcome.grad_norm })
    }

    /// Computes the mean loss over the first validation batches. Before each batch, `go_on` receives the number of
    /// batches done and the total. Returns `None` if it returns false.
    pub(super) fn evaluate(
        &mut self,
        corpus: &Corpus,
        mut go_on: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<f64>, TrainError> {
        let (size, windows) = (self.config.batch_size as u64, corpus.num_validation_windows());
        let all = windows.div_ceil(size);
        let batches = self.config.eval_batches.map_or(all, |most| all.min(most));
        let mut loss = LossSum::default();
        for batch in 0..batches {
            if !go_on(batch, batches) {
                return Ok(None);
            }
            self.tokens.clear();
            for window in batch * size..windows.min((batch + 1) * size) {
                corpus.validation_window(window, &mut self.tokens)?;
            }
            loss.add(self.engine.evaluate(&Batch::new(&self.tokens))?);
        }
        Ok(Some(loss.mean()))
    }
}
