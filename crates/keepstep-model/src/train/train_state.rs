//! The training state of a model: parameters, the optimizer's two moments, and the number of updates.

use crate::layout::Layout;
use crate::train::adamw::ParamGroup;
use crate::train::schedule::Schedule;
use crate::train::shared_buffer::SharedBuffer;
use crate::train::state_dict::{self, StateDictError};
use keepstep::checkpoint::{Checkpoint, State};
use std::sync::Arc;

/// Three flat buffers of one layout. A clone shares them, and shared buffers never change.
#[derive(Debug, Clone)]
pub struct TrainState {
    /// The names, shapes and offsets of the tensors.
    pub layout: Arc<Layout>,
    /// The parameters.
    pub parameters: SharedBuffer,
    /// The first moments.
    pub exp_avg: SharedBuffer,
    /// The second moments.
    pub exp_avg_sq: SharedBuffer,
    /// The number of updates that the optimizer has made.
    pub num_updates: u64,
}

impl TrainState {
    /// Creates the state before the first update. `parameters` must have the length of the layout.
    pub fn new(layout: Layout, parameters: Vec<f32>) -> TrainState {
        TrainState { parameters: SharedBuffer::new(parameters), ..TrainState::zeros(layout) }
    }

    /// Creates a state of zeros, to be filled from a file.
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

    /// Reads the state from a checkpoint. Tensors are read directly into the buffers, without a second copy.
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

    /// Returns the three state dicts after `global_step` updates of the run. Their tensors share these buffers.
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
