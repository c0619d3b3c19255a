//! Updates that are made again after resuming from an older checkpoint, compared with what the journal has of them.

use std::collections::BTreeMap;

/// What the journal has beyond the place that a run continues from.
#[derive(Debug, Default)]
pub(super) struct Replay {
    losses: BTreeMap<u64, u64>,
    identical: u64,
    diverged: bool,
}

/// Something to say about updates that were made again.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Replayed {
    /// All updates that the journal has were made again, and every loss has the same bits.
    Identical {
        /// How many.
        updates: u64,
    },
    /// The first loss that is not the one that the journal has.
    Diverged {
        /// After the update.
        global_step: u64,
        /// What the journal has.
        journal: f64,
        /// What was computed now.
        now: f64,
    },
}

impl Replay {
    pub(super) fn new(losses: BTreeMap<u64, u64>) -> Replay {
        Replay { losses, identical: 0, diverged: false }
    }

    /// Compares one update; says something at the first difference, or once all are compared.
    pub(super) fn compare(&mut self, global_step: u64, loss: f64) -> (bool, Option<Replayed>) {
        let Some(bits) = self.losses.remove(&global_step) else { return (false, None) };
        if bits != loss.to_bits() {
            let first = !std::mem::replace(&mut self.diverged, true);
            let journal = f64::from_bits(bits);
            return (true, first.then_some(Replayed::Diverged { global_step, journal, now: loss }));
        }
        self.identical += 1;
        let updates = self.identical;
        (true, (self.losses.is_empty() && !self.diverged).then_some(Replayed::Identical { updates }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_said_once_and_a_difference_first() {
        let losses = |last: f64| Replay::new([(3, 1.0_f64.to_bits()), (4, last.to_bits())].into());
        let mut replay = losses(2.0);
        assert_eq!(replay.compare(3, 1.0), (true, None));
        assert_eq!(replay.compare(4, 2.0), (true, Some(Replayed::Identical { updates: 2 })));
        assert_eq!(replay.compare(5, 2.0), (false, None));
        let mut replay = losses(2.0);
        let diverged = Replayed::Diverged { global_step: 3, journal: 1.0, now: 1.5 };
        assert_eq!(replay.compare(3, 1.5), (true, Some(diverged)));
        assert_eq!(replay.compare(4, 2.0), (true, None));
    }
}
