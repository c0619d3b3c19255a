//! Everything that learns: parameters, moments, and how one update changes them.

use super::flat_buffer::FlatBuffer;
use super::state_dict::{self, StateDictError};
use crate::config::Config;
use crate::corpus::Corpus;
use crate::engine::{CpuEngine, DropoutKey, LossSum};
use crate::gradient::{GradientTree, clip_grad_norm, global_norm};
use crate::optimizer::AdamW;
use crate::parameters::{Layout, initial_parameters};
use crate::schedule::Schedule;
use keepstep::checkpoint::{Checkpoint, State};

/// The model, the optimizer and the buffers they work in.
pub(crate) struct Learner {
    seed: u64,
    learning_rate: f64,
    max_grad_norm: Option<f64>,
    config: crate::config::OptimizerConfig,
    block_size: usize,
    batch_size: usize,
    layout: Layout,
    engine: CpuEngine,
    optimizer: AdamW,
    schedule: Schedule,
    tree: GradientTree,
    parameters: FlatBuffer,
    exp_avg: FlatBuffer,
    exp_avg_sq: FlatBuffer,
    num_updates: u64,
    tokens: Vec<u32>,
}

/// What one update did.
pub(crate) struct UpdateOutcome {
    pub(crate) loss: LossSum,
    pub(crate) learning_rate: f64,
    /// The norm of the whole gradient before clipping.
    pub(crate) grad_norm: f64,
}

impl Learner {
    /// A learner at position 0, its weights computed from the seed.
    pub(crate) fn new(config: &Config, model: &crate::model::ModelConfig, schedule: Schedule) -> Learner {
        let layout = Layout::new(model);
        let parameters = initial_parameters(&layout, config.seed);
        let zeros = || FlatBuffer::new(vec![0.0; layout.num_parameters()]);
        Learner {
            seed: config.seed,
            learning_rate: config.optimizer.learning_rate,
            max_grad_norm: config.optimizer.max_grad_norm,
            config: config.optimizer.clone(),
            block_size: model.block_size,
            batch_size: config.batch_size,
            engine: CpuEngine::new(model, config.batch_size),
            optimizer: AdamW::new(&config.optimizer),
            schedule,
            tree: GradientTree::new(layout.num_parameters(), config.gradient_accumulation_steps),
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
            parameters: FlatBuffer::new(parameters),
            layout,
            num_updates: 0,
            tokens: Vec::new(),
        }
    }

    pub(crate) fn num_parameters(&self) -> usize {
        self.layout.num_parameters()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// Takes over the state of a checkpoint. Nothing of it is held twice: tensors are read into the buffers in place.
    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), StateDictError> {
        self.num_updates = checkpoint.num_updates;
        let state = &checkpoint.state;
        state_dict::load_model(&state.model, &self.layout, self.parameters.get_mut())?;
        state_dict::load_optimizer(
            &state.optimizer,
            &self.layout,
            self.num_updates,
            self.exp_avg.get_mut(),
            self.exp_avg_sq.get_mut(),
        )?;
        state_dict::check_scheduler(&state.scheduler, self.num_updates, self.next_learning_rate())
    }

    /// The three state dicts, which share the learner's buffers.
    pub(crate) fn state(&self) -> State {
        let learning_rate = self.next_learning_rate();
        State {
            model: state_dict::model_state_dict(&self.layout, &self.parameters),
            optimizer: state_dict::optimizer_state_dict(
                &self.layout,
                &self.config,
                learning_rate,
                &self.exp_avg,
                &self.exp_avg_sq,
                self.num_updates,
            ),
            scheduler: state_dict::scheduler_state_dict(self.learning_rate, learning_rate, self.num_updates),
        }
    }
}
