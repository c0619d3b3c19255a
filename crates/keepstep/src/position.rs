//! The position of a run: pure arithmetic over epochs, micro-batches and optimizer updates.

use std::fmt;
use std::ops::Range;
use thiserror::Error;

/// A place in a run, always at an update boundary.
///
/// Its fields are its whole definition, so it can be built and matched field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Optimizer updates completed over all epochs; never resets.
    pub global_step: u64,
    /// The epoch, 1-based.
    pub epoch: u64,
    /// Micro-batches completed in this epoch, `0..=steps_per_epoch`.
    pub step: u64,
}

impl Position {
    /// The start of a new run.
    pub const START: Position = Position { epoch: 1, step: 0, global_step: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, step {}, global step {}", self.epoch, self.step, self.global_step)
    }
}

/// The sizes that determine the next position.
///
/// Its fields are its whole definition, so it can be built and matched field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Micro-batches per epoch, at least 1.
    pub steps_per_epoch: u64,
    /// Micro-batches per optimizer update, at least 1. The last update of an epoch may have fewer.
    pub gradient_accumulation_steps: u64,
    /// The global step at which the run is complete.
    pub total_steps: u64,
}

/// The requested length of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// Epochs of the whole run.
    pub epochs: u64,
    /// The global step at which the run ends even within an epoch.
    pub total_steps: Option<u64>,
}

/// The next optimizer update.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Update {
    /// The epoch that it belongs to.
    pub epoch: u64,
    /// Updates completed before it. Random numbers and the learning rate depend on this number.
    pub global_step: u64,
    /// The micro-batches of the epoch that it uses (0-based).
    pub micro_batches: Range<u64>,
}

/// A position that contradicts its plan or origin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PositionError {
    /// The step lies outside the epoch.
    #[error("step {step} lies outside an epoch of {steps_per_epoch} steps")]
    Step {
        /// The step.
        step: u64,
        /// The epoch's length.
        steps_per_epoch: u64,
    },
    /// The step lies inside an accumulation window.
    #[error("step {step} lies inside an accumulation window of {gradient_accumulation_steps} micro-batches")]
    InsideWindow {
        /// The step.
        step: u64,
        /// The window.
        gradient_accumulation_steps: u64,
    },
    /// The position lies before the run's origin, or its epoch is 0.
    #[error("epoch {epoch}, step {step} lies before the run's origin")]
    BeforeOrigin {
        /// The epoch.
        epoch: u64,
        /// The step.
        step: u64,
    },
    /// The global step does not match the epoch and the step.
    #[error("the global step is {found}, but epoch and step make it {expected}")]
    GlobalStep {
        /// The global step that follows from epoch and step.
        expected: u64,
        /// The global step of the position.
        found: u64,
    },
}

impl Plan {
    /// Makes the plan of a run that began at `origin`.
    pub fn new(
        steps_per_epoch: u64,
        gradient_accumulation_steps: u64,
        length: Length,
        origin: Position,
    ) -> Plan {
        let mut plan = Plan { steps_per_epoch, gradient_accumulation_steps, total_steps: 0 };
        let end = match plan.global_step(origin, length.epochs, steps_per_epoch) {
            Some(end) => end,
            // Too long to be counted, or over before it begins.
            None if length.epochs > origin.epoch => u64::MAX,
            None => origin.global_step,
        };
        plan.total_steps = length.total_steps.map_or(end, |total| end.min(total));
        plan
    }

    /// Counts the optimizer updates of a whole epoch.
    pub fn updates_per_epoch(&self) -> u64 {
        self.steps_per_epoch.div_ceil(self.gradient_accumulation_steps)
    }

    /// Reports whether a checkpoint can be taken after `step` micro-batches of an epoch.
    pub fn is_boundary(&self, step: u64) -> bool {
        step.is_multiple_of(self.gradient_accumulation_steps) || step == self.steps_per_epoch
    }

    /// Computes the global step of (epoch, step) in a run that began at `origin`. None before the origin.
    fn global_step(&self, origin: Position, epoch: u64, step: u64) -> Option<u64> {
        let in_epoch = |step: u64| step.div_ceil(self.gradient_accumulation_steps);
        if epoch == origin.epoch {
            return in_epoch(step).checked_sub(in_epoch(origin.step))?.checked_add(origin.global_step);
        }
        let whole_epochs = epoch.checked_sub(origin.epoch)?.checked_sub(1)?;
        self.updates_per_epoch()
            .checked_sub(in_epoch(origin.step))?
            .checked_add(whole_epochs.checked_mul(self.updates_per_epoch())?)?
            .checked_add(in_epoch(step))?
            .checked_add(origin.global_step)
    }

    /// Checks that the three numbers of a position agree.
    ///
    /// The global step must be that of the origin, plus the updates since: the rest of the origin's epoch, each whole
    /// epoch after it, and the part of the position's epoch.
    ///
    /// # Errors
    /// The step lies outside the epoch or inside an accumulation window, the position lies before the origin, or the
    /// global step is another number.
    pub fn check(&self, origin: Position, position: Position) -> Result<(), PositionError> {
        let Position { epoch, step, global_step } = position;
        for step in [origin.step, step] {
            if step > self.steps_per_epoch {
                return Err(PositionError::Step { step, steps_per_epoch: self.steps_per_epoch });
            }
            if !self.is_boundary(step) {
                let gradient_accumulation_steps = self.gradient_accumulation_steps;
                return Err(PositionError::InsideWindow { step, gradient_accumulation_steps });
            }
        }
        if origin.epoch == 0 || (epoch, step) < (origin.epoch, origin.step) {
            return Err(PositionError::BeforeOrigin { epoch, step });
        }
        let before = PositionError::BeforeOrigin { epoch, step };
        let expected = self.global_step(origin, epoch, step).ok_or(before)?;
        if expected == global_step {
            Ok(())
        } else {
            Err(PositionError::GlobalStep { expected, found: global_step })
        }
    }

    /// Returns the update that follows `position`, or None if the run is complete.
    pub fn next_update(&self, position: Position) -> Option<Update> {
        if position.global_step >= self.total_steps {
            return None;
        }
        let (epoch, first) = if position.step == self.steps_per_epoch {
            (position.epoch + 1, 0)
        } else {
            (position.epoch, position.step)
        };
        let last = (first + self.gradient_accumulation_steps).min(self.steps_per_epoch);
        Some(Update { epoch, global_step: position.global_step, micro_batches: first..last })
    }
}

impl Update {
    /// Returns the position after this update.
    pub fn after(&self) -> Position {
        Position { epoch: self.epoch, step: self.micro_batches.end, global_step: self.global_step + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(steps_per_epoch: u64, gradient_accumulation_steps: u64, epochs: u64) -> Plan {
        plan_from(Position::START, steps_per_epoch, gradient_accumulation_steps, epochs)
    }

    fn plan_from(
        origin: Position,
        steps_per_epoch: u64,
        gradient_accumulation_steps: u64,
        epochs: u64,
    ) -> Plan {
        Plan::new(steps_per_epoch, gradient_accumulation_steps, Length { epochs, total_steps: None }, origin)
    }

    fn walk(plan: Plan, origin: Position) -> Vec<Update> {
        let mut position = origin;
        std::iter::from_fn(|| {
            let update = plan.next_update(position)?;
            position = update.after();
            Some(update)
        })
        .collect()
    }

    #[test]
    fn a_ragged_window_is_an_update_of_its_own() {
        let updates = walk(plan(10, 3, 2), Position::START);
        let windows: Vec<_> =
            updates.iter().map(|update| (update.epoch, update.micro_batches.clone())).collect();
        assert_eq!(
            windows,
            [(1, 0..3), (1, 3..6), (1, 6..9), (1, 9..10), (2, 0..3), (2, 3..6), (2, 6..9), (2, 9..10)]
        );
    }

    #[test]
    fn a_finished_epoch_resumes_at_step_0_of_the_next() {
        let end = Position { epoch: 1, step: 10, global_step: 4 };
        let update = plan(10, 3, 2).next_update(end).expect("the run goes on");
        assert_eq!((update.epoch, update.micro_batches), (2, 0..3));
        assert_eq!(plan(10, 3, 1).next_update(end), None);
    }

    #[test]
    fn total_steps_ends_a_run_within_an_epoch() {
        let plan = Plan { total_steps: 5, ..plan(10, 3, 2) };
        assert_eq!(walk(plan, Position::START).len(), 5);
    }

    proptest! {
        #[test]
        fn every_position_of_a_walk_holds_the_invariant_and_others_do_not(
            steps in 1_u64..40, accumulation in 1_u64..12, epochs in 1_u64..5, start in 0_u64..40, base in 0_u64..99,
        ) {
            let step = start.min(steps) / accumulation * accumulation;
            let origin = Position { epoch: 1, step, global_step: base };
            let plan = plan_from(origin, steps, accumulation, epochs);
            let updates = walk(plan, origin);
            prop_assert_eq!(updates.len() as u64, plan.total_steps - base);
            let mut seen = vec![];
            for update in &updates {
                prop_assert_eq!(plan.check(origin, update.after()), Ok(()));
                let after = update.after();
                let wrong = Position { global_step: after.global_step + 1, ..after };
                prop_assert!(plan.check(origin, wrong).is_err());
                seen.extend(update.micro_batches.clone().map(|index| (update.epoch, index)));
            }
            let expected: Vec<_> = (1..=epochs)
                .flat_map(|epoch| (0..steps).map(move |index| (epoch, index)))
                .filter(|&(epoch, index)| epoch > 1 || index >= step)
                .collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn no_number_makes_it_panic(numbers in proptest::array::uniform8(any::<u64>())) {
            let [steps, accumulation, epochs, a, b, c, d, e] = numbers;
            let origin = Position { epoch: a % 3, step: b % 9, global_step: c % 5 };
            let plan = plan_from(origin, steps.max(1), accumulation.max(1), epochs);
            let _ = plan.check(origin, Position { epoch: d, step: e, global_step: c });
        }
    }
}
