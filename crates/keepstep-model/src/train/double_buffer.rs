//! A training state that can be updated while a snapshot of it is in use.

use crate::layout::Layout;
use crate::train::adamw::{Buffers, Values};
use crate::train::shared_buffer::SharedBuffer;
use crate::train::train_state::TrainState;

/// A training state with an optional second set of buffers.
///
/// An update works in place if no snapshot shares the current buffers. Otherwise it reads them, writes the result to
/// the second set, and swaps the two sets.
pub(crate) struct DoubleBuffer {
    current: TrainState,
    spare: Option<Spare>,
}

/// The second set of buffers. Its values have no meaning between updates.
struct Spare {
    parameters: SharedBuffer,
    exp_avg: SharedBuffer,
    exp_avg_sq: SharedBuffer,
}

impl Spare {
    fn is_shared(&mut self) -> bool {
        self.parameters.is_shared() || self.exp_avg.is_shared() || self.exp_avg_sq.is_shared()
    }
}

impl DoubleBuffer {
    pub(crate) fn new(state: TrainState, has_spare: bool) -> DoubleBuffer {
        let spare = || SharedBuffer::spare(state.layout.num_parameters());
        let spare = has_spare.then(|| Spare { parameters: spare(), exp_avg: spare(), exp_avg_sq: spare() });
        DoubleBuffer { current: state, spare }
    }

    pub(crate) fn current(&self) -> &TrainState {
        &self.current
    }

    pub(crate) fn load(&mut self, state: TrainState) {
        self.current = state;
    }

    /// Reports whether an update needs no copy: no snapshot shares the current buffers, or none shares the second set.
    pub(crate) fn can_update(&mut self) -> bool {
        !self.is_shared() || self.spare.as_mut().is_some_and(|spare| !spare.is_shared())
    }

    fn is_shared(&mut self) -> bool {
        let TrainState { parameters, exp_avg, exp_avg_sq, .. } = &mut self.current;
        parameters.is_shared() || exp_avg.is_shared() || exp_avg_sq.is_shared()
    }

    /// Makes the next update with `step`, whose last argument is the number of the update, from 1. If a snapshot shares
    /// the current buffers, `step` gets them as the old values, and other buffers to fill completely. If snapshots
    /// share both sets, the values are copied first.
    pub(crate) fn update(&mut self, step: impl FnOnce(&Layout, Option<Values<'_>>, Buffers<'_>, u64)) {
        let is_shared = self.is_shared();
        let current = &mut self.current;
        let mut from = None;
        if let Some(spare) = self.spare.as_mut().filter(|_| is_shared)
            && !spare.is_shared()
        {
            std::mem::swap(&mut current.parameters, &mut spare.parameters);
            std::mem::swap(&mut current.exp_avg, &mut spare.exp_avg);
            std::mem::swap(&mut current.exp_avg_sq, &mut spare.exp_avg_sq);
            from = Some(Values {
                parameters: &spare.parameters,
                exp_avg: &spare.exp_avg,
                exp_avg_sq: &spare.exp_avg_sq,
            });
        }
        current.num_updates += 1;
        let into = Buffers {
            parameters: current.parameters.get_mut(),
            exp_avg: current.exp_avg.get_mut(),
            exp_avg_sq: current.exp_avg_sq.get_mut(),
        };
        step(&current.layout, from, into, current.num_updates);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt2::layout::initial_parameters;
    use crate::testing::cases::tiny;
    use crate::train::adamw::{AdamW, ParamGroup};
    use crate::train::schedule::Schedule;
    use keepstep::checkpoint::State;
    use keepstep_pt::Archive;

    fn weights(has_spare: bool) -> (DoubleBuffer, AdamW) {
        let model = tiny();
        let layout = model.layout();
        let groups = ParamGroup::from_config(&crate::train::adamw::OptimizerConfig::default(), &layout);
        let state = TrainState::new(layout, initial_parameters(&model, 1));
        (DoubleBuffer::new(state, has_spare), AdamW::new(groups))
    }

    fn update(weights: &mut DoubleBuffer, optimizer: &AdamW) {
        let gradient: Vec<f32> =
            (0..weights.current().parameters.len()).map(|index| index as f32 * 0.01 - 0.3).collect();
        weights.update(|layout, from, into, count| match from {
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

    fn places(weights: &DoubleBuffer) -> [*const f32; 3] {
        let weights = weights.current();
        [weights.parameters.as_ptr(), weights.exp_avg.as_ptr(), weights.exp_avg_sq.as_ptr()]
    }

    /// A background save must never contain values from a later update.
    #[test]
    fn a_snapshot_never_sees_a_later_update() {
        let config = crate::train::schedule::ScheduleConfig::default();
        let schedule = Schedule::new(&config, 1e-3, 10);
        for has_spare in [true, false] {
            let ((mut weights, optimizer), (mut plain, _)) = (weights(has_spare), weights(false));
            for round in 0..4_u64 {
                update(&mut weights, &optimizer);
                update(&mut plain, &optimizer);
                let snapshot = weights.current().state(optimizer.groups(), &schedule, round);
                let before = bytes(&snapshot);
                for _ in 0..3 {
                    update(&mut weights, &optimizer);
                    update(&mut plain, &optimizer);
                    assert_eq!(bytes(&snapshot), before, "the snapshot has changed");
                    let state = weights.current().state(optimizer.groups(), &schedule, round);
                    assert_eq!(
                        bytes(&state),
                        bytes(&plain.current().state(optimizer.groups(), &schedule, round))
                    );
                }
            }
        }
    }

    #[test]
    fn two_states_are_all_that_is_ever_held() {
        let config = crate::train::schedule::ScheduleConfig::default();
        let schedule = Schedule::new(&config, 1e-3, 10);
        let (mut weights, optimizer) = weights(true);
        let first = places(&weights);
        let mut second = None;
        for round in 0..6 {
            let here = if round % 2 == 0 { first } else { second.expect("the spare ones") };
            assert_eq!(places(&weights), here, "{round}");
            // The update works in place if no snapshot exists.
            update(&mut weights, &optimizer);
            assert_eq!(places(&weights), here, "{round}");
            let snapshot = weights.current().state(optimizer.groups(), &schedule, 0);
            assert!(weights.can_update());
            update(&mut weights, &optimizer);
            let there = *second.get_or_insert(places(&weights));
            assert_eq!(places(&weights), if round % 2 == 0 { there } else { first }, "{round}");
            // In place again: the save is still running, and the next update does not touch its buffers.
            update(&mut weights, &optimizer);
            assert_eq!(places(&weights), if round % 2 == 0 { there } else { first }, "{round}");
            // A second snapshot, while the first still exists, leaves no free set of buffers.
            let another = weights.current().state(optimizer.groups(), &schedule, 0);
            assert!(!weights.can_update());
            drop(another);
            assert!(weights.can_update());
            drop(snapshot);
        }
    }
}
