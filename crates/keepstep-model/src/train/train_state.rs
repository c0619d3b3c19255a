//! What a checkpoint holds of a model: parameters, the optimizer's two moments, and their count of updates.

use crate::layout::Layout;
use crate::train::adamw::ParamGroup;
use crate::train::schedule::Schedule;
use crate::train::shared_buffer::SharedBuffer;
use crate::train::state_dict::{self, StateDictError};
use keepstep::checkpoint::{Checkpoint, State};
use std::sync::Arc;

/// Three flat buffers of one layout. A clone shares them, and what is shared never changes.
#[derive(Debug, Clone)]
pub struct TrainState {
    /// The tensors.
    pub layout: Arc<Layout>,
    /// The parameters.
    pub parameters: SharedBuffer,
    /// The first moments.
    pub exp_avg: SharedBuffer,
    /// The second moments.
    pub exp_avg_sq: SharedBuffer,
    /// Updates that the optimizer has made.
    pub num_updates: u64,
}

impl TrainState {
    /// The state before the first update. `parameters` are a buffer of the layout.
    pub fn new(layout: Layout, parameters: Vec<f32>) -> TrainState {
        TrainState { parameters: SharedBuffer::new(parameters), ..TrainState::zeros(layout) }
    }

    /// All 0, to be filled with what a file holds.
    pub fn zeros(layout: Layout) -> TrainState {
        let zeros = || SharedBuffer::new(vec![0.0; layout.num_parameters()]);
        TrainState {
            parameters: zeros(),
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
            num_updates: 0,
            layout: Arc::new(layout),
        }
    }

    /// Takes over a checkpoint's. Nothing of it is held twice: tensors are read into the buffers in place.
    pub fn restore(&mut self, checkpoint: &Checkpoint, groups: &[ParamGroup]) -> Result<(), StateDictError> {
        self.num_updates = checkpoint.num_updates;
        let state = &checkpoint.state;
        state_dict::load_model(state.part("model"), &self.layout, self.parameters.get_mut())?;
        state_dict::load_optimizer(
            state.part("optimizer"),
            &self.layout,
            groups,
            self.num_updates,
            self.exp_avg.get_mut(),
            self.exp_avg_sq.get_mut(),
        )
    }

    /// The three state dicts after `global_step` updates of the run; tensors share these buffers.
    pub fn state(&self, groups: &[ParamGroup], schedule: &Schedule, global_step: u64) -> State {
        let factor = schedule.factor(global_step);
        State::of_training(
            state_dict::model_state_dict(&self.layout, &self.parameters),
            state_dict::optimizer_state_dict(
                &self.layout,
                groups,
                factor,
                &self.exp_avg,
                &self.exp_avg_sq,
                self.num_updates,
            ),
            state_dict::scheduler_state_dict(groups, factor, global_step),
        )
    }
}
