//! Everything that learns: parameters, moments, and how one update changes them.

use crate::config::{Config, Precision};
use keepstep::checkpoint::{Checkpoint, State};
use keepstep::order::Order;
use keepstep::position::Update;
use keepstep_model::engine::{DropoutKey, Engine, LossSum};
use keepstep_model::gpt2::CpuEngine;
use keepstep_model::gpt2::settings::Gpt2Config;
use keepstep_model::train::adamw::{AdamW, ParamGroup};
use keepstep_model::train::gradient_tree::{GradientTree, clip_coefficient, global_norm};
use keepstep_model::train::schedule::Schedule;
use keepstep_model::train::state_dict::{self, StateDictError};
use keepstep_model::train::train_state::TrainState;
use keepstep_text::corpus::{Corpus, CorpusError};

/// The model, the optimizer and the buffers they work in.
pub(super) struct Learner {
    config: Config,
    optimizer: AdamW,
    weights: TrainState,
    engine: CpuEngine,
    schedule: Schedule,
    tree: GradientTree,
    tokens: Vec<u32>,
}

/// What one update did.
pub(super) struct UpdateOutcome {
    pub(super) loss: LossSum,
    pub(super) learning_rate: f64,
    /// The norm of the whole gradient before clipping.
    pub(super) grad_norm: f64,
}

impl Learner {
    /// A learner of these weights.
    pub(super) fn new(
        config: &Config,
        precision: Precision,
        model: &Gpt2Config,
        schedule: Schedule,
        groups: Vec<ParamGroup>,
        weights: TrainState,
    ) -> Learner {
        Learner {
            config: config.clone(),
            engine: CpuEngine::new(model, config.batch_size, config.recompute_activations)
                .with_precision(precision),
            optimizer: AdamW::new(groups),
            schedule,
            tree: GradientTree::new(weights.layout.num_parameters()),
            weights,
            tokens: Vec::new(),
        }
    }

    pub(super) fn num_parameters(&self) -> usize {
        self.weights.layout.num_parameters()
    }

    pub(super) fn parameters(&self) -> &[f32] {
        &self.weights.parameters
    }

    /// Takes over the state of a checkpoint.
    pub(super) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), StateDictError> {
        self.weights.restore(checkpoint, self.optimizer.groups())?;
        let global_step = checkpoint.position.global_step;
        let factor = self.schedule.factor(global_step);
        state_dict::check_scheduler(
            checkpoint.state.part("scheduler"),
            self.optimizer.groups(),
            global_step,
            factor,
        )
    }

    /// Takes memory for a second state: updates then go on, without a copy, while the first is being saved.
    pub(super) fn add_spare(&mut self) {
        self.weights.add_spare();
    }

    /// Whether an update needs no copy of what is being saved.
    pub(super) fn has_room(&mut self) -> bool {
        self.weights.has_room()
    }

    /// The three state dicts after `global_step` updates, which share the learner's buffers.
    pub(super) fn state(&self, global_step: u64) -> State {
        self.weights.state(self.optimizer.groups(), &self.schedule, global_step)
    }

    /// Makes one update. `check` is given the mean loss and the gradient's norm before anything changes; its error
    /// leaves everything as it was.
    pub(super) fn update<E: From<CorpusError>>(
        &mut self,
        corpus: &Corpus,
        order: &Order,
        update: &Update,
        check: impl FnOnce(f64, f64) -> Result<(), E>,
    ) -> Result<UpdateOutcome, E> {
        let Learner { config, optimizer, weights, engine, schedule, tree, tokens } = self;
        let mut loss = LossSum::default();
        for (micro_batch, step) in update.micro_batches.clone().enumerate() {
            tokens.clear();
            let first = step * config.batch_size as u64;
            for place in first..first + config.batch_size as u64 {
                corpus.train_window(order.sample(place), tokens)?;
            }
            // The next micro-batch's windows lie anywhere: the disk finds them while this one is computed.
            let next = first + config.batch_size as u64;
            for place in next..(next + config.batch_size as u64).min(corpus.num_train_windows()) {
                corpus.will_need(order.sample(place));
            }
            let key = DropoutKey {
                seed: config.seed,
                global_step: update.global_step,
                micro_batch: micro_batch as u64,
            };
            loss.add(
                tree.add(|gradient| engine.loss_and_gradient(&weights.parameters, tokens, key, gradient)),
            );
        }
        let factor = schedule.factor(update.global_step);
        let learning_rate = optimizer.groups().first().map_or(0.0, |group| group.learning_rate * factor);
        let count = weights.num_updates + 1;
        let grad_norm = tree.mean(|gradient| {
            let norm = global_norm(gradient);
            check(loss.mean(), norm)?;
            let max_norm = config.optimizer.max_grad_norm;
            let clip = if max_norm > 0.0 { clip_coefficient(norm, max_norm) } else { 1.0 };
            weights.update(|layout, from, into| match from {
                Some(from) => optimizer.step_from(layout, from, into, gradient, clip, factor, count),
                None => optimizer.step(layout, into, gradient, clip, factor, count),
            });
            Ok::<f64, E>(norm)
        })?;
        weights.num_updates = count;
        Ok(UpdateOutcome { loss, learning_rate, grad_norm })
    }

    /// The mean loss over the first validation batches; None if `go_on`, which is asked before each batch with the
    /// number of batches done and of all, says no.
    pub(super) fn evaluate(
        &mut self,
        corpus: &Corpus,
        mut go_on: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<f64>, CorpusError> {
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
            loss.add(self.engine.loss(&self.weights.parameters, &self.tokens));
        }
        Ok(Some(loss.mean()))
    }
}
