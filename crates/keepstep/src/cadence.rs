//! When evaluations and saves are due: decided from the position alone, in one place.

use crate::name::Name;
use crate::position::{Plan, Position};

/// How often a run evaluates and saves, counted in optimizer updates. Both are also due at the end of each epoch, and a
/// save at the end of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cadence {
    /// Updates from one scheduled save to the next, at least 1.
    pub save_steps: u64,
    /// Updates from one evaluation to the next; None where the run never evaluates.
    pub eval_steps: Option<u64>,
}

impl Cadence {
    /// Saves every `save_steps` updates and evaluates every `eval_steps`. A 0 counts as 1.
    pub fn new(save_steps: u64, eval_steps: Option<u64>) -> Cadence {
        Cadence { save_steps: save_steps.max(1), eval_steps: eval_steps.map(|every| every.max(1)) }
    }

    /// Whether an evaluation is due once the run has come to `position`.
    pub fn evaluation_is_due(&self, plan: &Plan, position: Position) -> bool {
        let ends_epoch = position.step == plan.steps_per_epoch;
        self.eval_steps.is_some_and(|every| ends_epoch || position.global_step.is_multiple_of(every))
    }

    /// Whether a checkpoint with this name is a scheduled one, in a run that ends at the global step `end`.
    pub fn is_scheduled(&self, name: &Name, end: u64) -> bool {
        name.step.is_none() || name.global_step.is_multiple_of(self.save_steps) || name.global_step == end
    }

    /// Evaluations that are due after `position`.
    pub fn evaluations_after(&self, plan: &Plan, position: Position) -> u64 {
        self.eval_steps.map_or(0, |every| due_after(plan, position, every))
    }

    /// Scheduled saves after `position`.
    pub fn saves_after(&self, plan: &Plan, position: Position) -> u64 {
        if position.global_step >= plan.total_steps {
            return 0;
        }
        let before_end = Plan { total_steps: plan.total_steps - 1, ..*plan };
        due_after(&before_end, position, self.save_steps) + 1
    }
}

/// Positions after `position` at which `every` updates are complete, or an epoch.
fn due_after(plan: &Plan, position: Position, every: u64) -> u64 {
    let (from, to) = (position.global_step, plan.total_steps.max(position.global_step));
    let by_steps = to / every - from / every;
    // The next end of an epoch, and each one an epoch later.
    let per_epoch = plan.updates_per_epoch();
    let rest = plan.steps_per_epoch.saturating_sub(position.step).div_ceil(plan.gradient_accumulation_steps);
    let first = from + if rest == 0 { per_epoch } else { rest };
    if first > to {
        return by_steps;
    }
    let ends = (to - first) / per_epoch + 1;
    // Where both fall on one update, that counts once. They do so periodically, so a few of them tell of all.
    let period = (every / greatest_common_divisor(every, per_epoch)).max(1);
    let together = (0..period.min(ends)).find(|end| (first + end * per_epoch).is_multiple_of(every));
    by_steps + ends - together.map_or(0, |end| (ends - 1 - end) / period + 1)
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_are_those_of_a_walk(
            steps in 1_u64..30, accumulation in 1_u64..5, total in 1_u64..90, every in 1_u64..25, done in 0_u64..90,
        ) {
            let plan = Plan { steps_per_epoch: steps, gradient_accumulation_steps: accumulation, total_steps: total };
            let cadence = Cadence::new(every, Some(every));
            let (mut position, mut from) = (Position::START, Position::START);
            let (mut evaluations, mut saves) = (0, 0);
            while let Some(update) = plan.next_update(position) {
                position = update.after();
                if position.global_step <= done {
                    from = position;
                } else {
                    evaluations += u64::from(cadence.evaluation_is_due(&plan, position));
                    saves += u64::from(cadence.is_scheduled(&Name::at(&plan, position), total));
                }
            }
            prop_assert_eq!(cadence.evaluations_after(&plan, from), evaluations);
            prop_assert_eq!(cadence.saves_after(&plan, from), saves);
            prop_assert_eq!(Cadence::new(every, None).evaluations_after(&plan, from), 0);
        }
    }
}
