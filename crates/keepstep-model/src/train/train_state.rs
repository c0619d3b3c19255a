//! What a checkpoint holds of a model: parameters, the optimizer's two moments, and their count of updates.

use crate::layout::Layout;
use crate::train::adamw::{Buffers, ParamGroup, Values};
use crate::train::schedule::Schedule;
use crate::train::shared_buffer::FlatBuffer;
use crate::train::state_dict::{self, StateDictError};
use keepstep::checkpoint::{Checkpoint, State};

/// Three flat buffers of one layout, and three more to write to while a checkpoint holds these.
pub struct TrainState {
    /// Which tensor lies where.
    pub layout: Layout,
    /// The parameters.
    pub parameters: FlatBuffer,
    /// The first moments.
    pub exp_avg: FlatBuffer,
    /// The second moments.
    pub exp_avg_sq: FlatBuffer,
    /// Updates that the optimizer has made.
    pub num_updates: u64,
    spare: Option<Spare>,
}

/// What an update writes to where it must leave the values before it as they are.
struct Spare {
    parameters: FlatBuffer,
    exp_avg: FlatBuffer,
    exp_avg_sq: FlatBuffer,
}

impl Spare {
    fn is_shared(&mut self) -> bool {
        self.parameters.is_shared() || self.exp_avg.is_shared() || self.exp_avg_sq.is_shared()
    }
}

impl TrainState {
    /// The state before the first update. `parameters` are a buffer of the layout.
    pub fn new(layout: Layout, parameters: Vec<f32>) -> TrainState {
        TrainState { parameters: FlatBuffer::new(parameters), ..TrainState::zeros(layout) }
    }

    /// All 0, to be filled with what a file holds.
    pub fn zeros(layout: Layout) -> TrainState {
        let zeros = || FlatBuffer::new(vec![0.0; layout.num_parameters()]);
        TrainState {
            parameters: zeros(),
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
            num_updates: 0,
            spare: None,
            layout,
        }
    }

    /// Takes memory for a second state, so that updates go on while a checkpoint of the first is being written.
    pub fn add_spare(&mut self) {
        let spare = || FlatBuffer::spare(self.layout.num_parameters());
        self.spare = Some(Spare { parameters: spare(), exp_avg: spare(), exp_avg_sq: spare() });
    }

    /// Whether an update can be made without a copy: no checkpoint holds these buffers, or none the spare ones.
    pub fn has_room(&mut self) -> bool {
        !self.is_shared() || self.spare.as_mut().is_some_and(|spare| !spare.is_shared())
    }

    fn is_shared(&mut self) -> bool {
        self.parameters.is_shared() || self.exp_avg.is_shared() || self.exp_avg_sq.is_shared()
    }

    /// Lets `step` make an update: in place, or from values that a checkpoint holds into the spare buffers, which these
    /// then are. Where neither can be, the values are copied first.
    pub fn update(&mut self, step: impl FnOnce(&Layout, Option<Values<'_>>, Buffers<'_>)) {
        let is_shared = self.is_shared();
        let mut from = None;
        if let Some(spare) = self.spare.as_mut().filter(|_| is_shared)
            && !spare.is_shared()
        {
            std::mem::swap(&mut self.parameters, &mut spare.parameters);
            std::mem::swap(&mut self.exp_avg, &mut spare.exp_avg);
            std::mem::swap(&mut self.exp_avg_sq, &mut spare.exp_avg_sq);
            from = Some(Values {
                parameters: &spare.parameters,
                exp_avg: &spare.exp_avg,
                exp_avg_sq: &spare.exp_avg_sq,
            });
        }
        let into = Buffers {
            parameters: self.parameters.get_mut(),
            exp_avg: self.exp_avg.get_mut(),
            exp_avg_sq: self.exp_avg_sq.get_mut(),
        };
        step(&self.layout, from, into);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt2::layout::initial_parameters;
    use crate::gpt2::settings::Gpt2Config;
    use crate::train::adamw::AdamW;
    use keepstep_pt::Archive;

    fn weights() -> (TrainState, AdamW) {
        let model = Gpt2Config {
            vocab_size: 5,
            block_size: 3,
            n_layer: 1,
            n_head: 1,
            n_embd: 4,
            dropout: 0.0,
            layer_norm_epsilon: 1e-5,
        };
        let layout = model.layout();
        let groups = ParamGroup::of_config(&crate::train::adamw::OptimizerConfig::default(), &layout);
        (TrainState::new(layout, initial_parameters(&model, 1)), AdamW::new(groups))
    }

    fn update(weights: &mut TrainState, optimizer: &AdamW) {
        let gradient: Vec<f32> =
            (0..weights.parameters.len()).map(|index| index as f32 * 0.01 - 0.3).collect();
        weights.num_updates += 1;
        let count = weights.num_updates;
        weights.update(|layout, from, into| match from {
            Some(from) => optimizer.step_from(layout, from, into, &gradient, 1.0, 1.0, count),
            None => optimizer.step(layout, into, &gradient, 1.0, 1.0, count),
        });
    }

    fn bytes(state: &State) -> Vec<u8> {
        let mut bytes = Vec::new();
        let root =
            keepstep_pt::Value::List(vec![state.part("model").clone(), state.part("optimizer").clone()]);
        Archive::new(&root).write_to(&mut bytes).expect("memory takes it");
        bytes
    }

    fn places(weights: &TrainState) -> [*const f32; 3] {
        [weights.parameters.as_ptr(), weights.exp_avg.as_ptr(), weights.exp_avg_sq.as_ptr()]
    }

    /// The bug of asynchronous savers: values from after the update.
    #[test]
    fn a_snapshot_never_sees_a_later_update() {
        let config = crate::train::schedule::ScheduleConfig::default();
        let schedule = Schedule::new(&config, 1e-3, 10);
        for has_spare in [true, false] {
            let ((mut weights, optimizer), (mut plain, _)) = (weights(), weights());
            if has_spare {
                weights.add_spare();
            }
            for round in 0..4_u64 {
                update(&mut weights, &optimizer);
                update(&mut plain, &optimizer);
                let snapshot = weights.state(optimizer.groups(), &schedule, round);
                let before = bytes(&snapshot);
                for _ in 0..3 {
                    update(&mut weights, &optimizer);
                    update(&mut plain, &optimizer);
                    assert_eq!(bytes(&snapshot), before, "the snapshot has changed");
                    let state = weights.state(optimizer.groups(), &schedule, round);
                    assert_eq!(bytes(&state), bytes(&plain.state(optimizer.groups(), &schedule, round)));
                }
            }
        }
    }

    #[test]
    fn two_states_are_all_that_is_ever_held() {
        let config = crate::train::schedule::ScheduleConfig::default();
        let schedule = Schedule::new(&config, 1e-3, 10);
        let (mut weights, optimizer) = weights();
        weights.add_spare();
        let first = places(&weights);
        let mut second = None;
        for round in 0..6 {
            let here = if round % 2 == 0 { first } else { second.expect("the spare ones") };
            assert_eq!(places(&weights), here, "{round}");
            // In place, while nobody holds them.
            update(&mut weights, &optimizer);
            assert_eq!(places(&weights), here, "{round}");
            let snapshot = weights.state(optimizer.groups(), &schedule, 0);
            assert!(weights.has_room());
            update(&mut weights, &optimizer);
            let there = *second.get_or_insert(places(&weights));
            assert_eq!(places(&weights), if round % 2 == 0 { there } else { first }, "{round}");
            // In place again: the save is still under way, and the next update does not disturb it.
            update(&mut weights, &optimizer);
            assert_eq!(places(&weights), if round % 2 == 0 { there } else { first }, "{round}");
            // A second snapshot before the first has gone leaves no room.
            let another = weights.state(optimizer.groups(), &schedule, 0);
            assert!(!weights.has_room());
            drop(another);
            assert!(weights.has_room());
            drop(snapshot);
        }
    }
}
