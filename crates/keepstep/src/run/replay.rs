//! Repeated updates after resuming from an older checkpoint, compared with the journal.

use crate::journal::JournaledUpdate;
use std::collections::BTreeMap;

/// Updates that the journal has after the position that a run continues from.
#[derive(Debug, Default)]
pub(super) struct Replay {
    made: BTreeMap<u64, JournaledUpdate>,
    identical: u64,
    diverged: bool,
    is_reported: bool,
}

/// The result of comparing repeated updates with the journal.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Replayed {
    /// All repeated updates have the same loss and gradient norm as in the journal, bit for bit.
    Identical {
        /// Number of repeated updates.
        updates: u64,
        /// Number of further updates in the journal, after the position where the session ended.
        left: u64,
    },
    /// A number differs from the journal. Only the first one is reported.
    Diverged {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// Global step after the update.
        global_step: u64,
        /// The number in the journal.
        journal: f64,
        /// The number that was computed now.
        now: f64,
        /// Number of repeated updates before it, all identical.
        identical: u64,
    },
}

impl Replay {
    pub(super) fn new(made: BTreeMap<u64, JournaledUpdate>) -> Replay {
        Replay { made, ..Replay::default() }
    }

    /// Compares one update. Returns whether it is a repetition, and a result at the first difference or when all are
    /// compared.
    pub(super) fn compare(
        &mut self,
        global_step: u64,
        loss: Option<f64>,
        norm: Option<f64>,
    ) -> (bool, Option<Replayed>) {
        let Some(made) = self.made.remove(&global_step) else { return (false, None) };
        let numbers = [("loss", made.loss, loss), ("gradient norm", made.grad_norm, norm)];
        // Compare only numbers that both have.
        let known = numbers.into_iter().filter_map(|(what, journal, now)| Some((what, journal?, now?)));
        if let Some((what, bits, now)) = known.into_iter().find(|(_, bits, now)| *bits != now.to_bits()) {
            let first = !std::mem::replace(&mut self.diverged, true);
            let (journal, identical) = (f64::from_bits(bits), self.identical);
            return (
                true,
                first.then_some(Replayed::Diverged { what, global_step, journal, now, identical }),
            );
        }
        self.identical += 1;
        (true, if self.made.is_empty() { self.end() } else { None })
    }

    /// Returns the result that is not yet reported when the session ends.
    pub(super) fn end(&mut self) -> Option<Replayed> {
        let is_news = self.identical > 0 && !self.diverged && !std::mem::replace(&mut self.is_reported, true);
        is_news.then_some(Replayed::Identical { updates: self.identical, left: self.made.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_reported_once_and_a_difference_first() {
        let made =
            |loss: f64| JournaledUpdate { loss: Some(loss.to_bits()), grad_norm: Some(0.5_f64.to_bits()) };
        let replay = || Replay::new([(3, made(1.0)), (4, made(2.0))].into());
        let mut whole = replay();
        assert_eq!(whole.compare(3, Some(1.0), Some(0.5)), (true, None));
        assert_eq!(
            whole.compare(4, Some(2.0), Some(0.5)),
            (true, Some(Replayed::Identical { updates: 2, left: 0 }))
        );
        assert_eq!(whole.compare(5, Some(2.0), Some(0.5)), (false, None));
        assert_eq!(whole.end(), None);

        let mut cut = replay();
        assert_eq!(cut.compare(3, Some(1.0), Some(0.5)), (true, None));
        assert_eq!(cut.end(), Some(Replayed::Identical { updates: 1, left: 1 }));
        assert_eq!(cut.end(), None);

        for (loss, norm, what, journal, now) in
            [(1.5, 0.5, "loss", 1.0, 1.5), (1.0, 0.6, "gradient norm", 0.5, 0.6)]
        {
            let mut replay = replay();
            let diverged = Replayed::Diverged { what, global_step: 3, journal, now, identical: 0 };
            assert_eq!(replay.compare(3, Some(loss), Some(norm)), (true, Some(diverged)));
            assert_eq!(replay.compare(4, Some(2.5), Some(0.5)), (true, None));
            assert_eq!(replay.end(), None);
        }
        // Lines of older versions have no norm that could be compared.
        let mut old = Replay::new([(3, JournaledUpdate { grad_norm: None, ..made(1.0) })].into());
        assert_eq!(old.compare(3, Some(1.0), Some(9.0)).1, Some(Replayed::Identical { updates: 1, left: 0 }));
    }
}
