//! What a checkpoint holds of a model: parameters, the optimizer's two moments, and their count of updates.

use crate::flat_buffer::FlatBuffer;
use crate::optimizer::ParamGroup;
use crate::parameters::{Layout, initial_parameters};
use crate::schedule::Schedule;
use crate::state_dict::{self, StateDictError};
use keepstep::checkpoint::{Checkpoint, State};

/// Three flat buffers of one layout.
pub(crate) struct Weights {
    pub(crate) layout: Layout,
    pub(crate) parameters: FlatBuffer,
    pub(crate) exp_avg: FlatBuffer,
    pub(crate) exp_avg_sq: FlatBuffer,
    /// Updates that the optimizer has made.
    pub(crate) num_updates: u64,
}

impl Weights {
    /// At position 0: computed from the seed.
    pub(crate) fn initial(layout: Layout, seed: u64) -> Weights {
        let parameters = FlatBuffer::new(initial_parameters(&layout, seed));
        Weights { parameters, ..Weights::zeros(layout) }
    }

    /// All 0, to be filled with what a file holds.
    pub(crate) fn zeros(layout: Layout) -> Weights {
        let zeros = || FlatBuffer::new(vec![0.0; layout.num_parameters()]);
        Weights { parameters: zeros(), exp_avg: zeros(), exp_avg_sq: zeros(), num_updates: 0, layout }
    }

    /// Takes over a checkpoint's. Nothing of it is held twice: tensors are read into the buffers in place.
    pub(crate) fn restore(
        &mut self,
        checkpoint: &Checkpoint,
        groups: &[ParamGroup],
    ) -> Result<(), StateDictError> {
        self.num_updates = checkpoint.num_updates;
        let state = &checkpoint.state;
        state_dict::load_model(&state.model, &self.layout, self.parameters.get_mut())?;
        state_dict::load_optimizer(
            &state.optimizer,
            &self.layout,
            groups,
            self.num_updates,
            self.exp_avg.get_mut(),
            self.exp_avg_sq.get_mut(),
        )
    }

    /// The three state dicts after `global_step` updates of the run; tensors share these buffers.
    pub(crate) fn state(&self, groups: &[ParamGroup], schedule: &Schedule, global_step: u64) -> State {
        let factor = schedule.factor(global_step);
        State {
            model: state_dict::model_state_dict(&self.layout, &self.parameters),
            optimizer: state_dict::optimizer_state_dict(
                &self.layout,
                groups,
                factor,
                &self.exp_avg,
                &self.exp_avg_sq,
                self.num_updates,
            ),
            scheduler: state_dict::scheduler_state_dict(groups, factor, global_step),
        }
    }
}
