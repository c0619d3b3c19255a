//! Maps a notebook's epoch, step and global step to a position in a run.

use crate::hub::HubError;
use keepstep::position::Position;

/// How a notebook counts epochs and steps. Anything left unset is inferred from the numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepConvention {
    /// The number of the first epoch: 0 or 1.
    pub epoch_base: Option<u8>,
    /// Whether `step` is the index of the last completed micro-batch (true) or the number of completed ones (false).
    pub step_is_index: Option<bool>,
    /// Whether to go back to the last boundary of an accumulation window.
    pub round_down: bool,
}

/// The numbers in a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stated {
    pub(crate) epoch: i64,
    pub(crate) step: i64,
    pub(crate) global_step: i64,
}

/// Finds the position that the numbers mean. If there are several, it takes the one that agrees with the global step,
/// then the one at the end of an accumulation window, then, for epoch 0, the one that counts epochs from 0.
pub(crate) fn interpret(
    stated: Stated,
    convention: StepConvention,
    steps_per_epoch: u64,
    accumulation: u64,
) -> Result<Position, HubError> {
    let Stated { epoch, step, global_step } = stated;
    let outside = || HubError::Outside { epoch, step, steps_per_epoch };
    let made = u64::try_from(global_step).map_err(|_| outside())?;
    let mut places: Vec<Place> = Vec::new();
    for base in convention.epoch_base.map_or(vec![0, 1], |base| vec![i64::from(base)]) {
        for is_index in convention.step_is_index.map_or(vec![false, true], |is_index| vec![is_index]) {
            let (Some(epoch), Some(step)) =
                (epoch.checked_add(1 - base), step.checked_add(i64::from(is_index)))
            else {
                continue;
            };
            let (Ok(mut epoch), Ok(mut step)) = (u64::try_from(epoch), u64::try_from(step)) else { continue };
            if epoch == 0 || step > steps_per_epoch {
                continue;
            }
            // The start of an epoch is the end of the previous one.
            if step == 0 && epoch > 1 {
                (epoch, step) = (epoch - 1, steps_per_epoch);
            }
            let place = Place { epoch, step };
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    if places.is_empty() {
        return Err(outside());
    }
    let boundary = |place: &Place| place.step.is_multiple_of(accumulation) || place.step == steps_per_epoch;
    let counted = |place: &Place| place.counts(made, steps_per_epoch, accumulation);
    let zero_based = |place: &Place| epoch == 0 && place.epoch <= 1;
    let both = |place: &Place| boundary(place) && counted(place);
    let tests: [&dyn Fn(&Place) -> bool; 5] = [&both, &counted, &boundary, &zero_based, &|_| true];
    let chosen = tests.iter().find_map(|test| {
        let mut fitting = places.iter().filter(|place| test(place));
        let first = fitting.next()?;
        // Several readings pass this test, and the weaker tests that follow must not choose between them.
        Some(fitting.next().is_none().then_some(*first))
    });
    let Some(Some(mut place)) = chosen else {
        let gradient_accumulation_steps = accumulation;
        return Err(HubError::Ambiguous {
            epoch,
            step,
            global_step,
            steps_per_epoch,
            gradient_accumulation_steps,
        });
    };
    if !boundary(&place) {
        if !convention.round_down {
            let Place { epoch, step } = place;
            return Err(HubError::InsideWindow { epoch, step, gradient_accumulation_steps: accumulation });
        }
        place.step -= place.step % accumulation;
    }
    Ok(Position { epoch: place.epoch, step: place.step, global_step: made })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    epoch: u64,
    step: u64,
}

impl Place {
    /// Reports whether a loop has made `made` updates at this position. Either it counts a ragged window at the end of
    /// an epoch as an update, or it does not (`global_step += 1` when `(step + 1) % A == 0`).
    fn counts(&self, made: u64, steps_per_epoch: u64, accumulation: u64) -> bool {
        let whole = u128::from(self.epoch - 1);
        let with = whole * u128::from(steps_per_epoch.div_ceil(accumulation))
            + u128::from(self.step.div_ceil(accumulation));
        let without =
            whole * u128::from(steps_per_epoch / accumulation) + u128::from(self.step / accumulation);
        [with, without].contains(&u128::from(made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        epoch: i64,
        step: i64,
        global_step: i64,
        convention: StepConvention,
    ) -> Result<(u64, u64), HubError> {
        interpret(Stated { epoch, step, global_step }, convention, 10, 3)
            .map(|place| (place.epoch, place.step))
    }

    #[test]
    fn the_global_step_tells() {
        let any = StepConvention::default();
        // Ten micro-batches per epoch, three per update. The ragged window may count or not.
        assert_eq!(read(1, 6, 2, any).expect("count, from 1"), (1, 6));
        assert_eq!(read(0, 5, 2, any).expect("index, from 0"), (1, 6));
        assert_eq!(read(1, 5, 5, any).expect("index, from 0, without the ragged window"), (2, 6));
        assert_eq!(read(2, 6, 6, any).expect("count, from 1, with the ragged window"), (2, 6));
        assert_eq!(read(0, 9, 4, any).expect("an epoch's end"), (1, 10));
        assert_eq!(read(2, 0, 4, any).expect("an epoch's start"), (1, 10));
    }

    #[test]
    fn what_it_does_not_tell_is_refused_or_told() {
        // The numbers belong to another corpus: no count fits, and both bases give a boundary.
        let error = read(3, 6, 77, StepConvention::default()).expect_err("two ways").to_string();
        assert!(error.contains("more than one way"), "{error}");
        let told = StepConvention { epoch_base: Some(1), ..StepConvention::default() };
        assert_eq!(read(3, 6, 77, told).expect("told"), (3, 6));
        assert!(matches!(read(1, 50, 2, StepConvention::default()), Err(HubError::Outside { .. })));
        assert!(matches!(read(-1, 5, 2, StepConvention::default()), Err(HubError::Outside { .. })));
    }

    #[test]
    fn inside_a_window() {
        let told = StepConvention { epoch_base: Some(1), step_is_index: Some(false), round_down: false };
        assert!(matches!(read(1, 7, 2, told), Err(HubError::InsideWindow { .. })));
        assert_eq!(read(1, 7, 2, StepConvention { round_down: true, ..told }).expect("moved"), (1, 6));
    }
}
