//! How often a proved run is killed, and when.

use std::time::Duration;

/// Kills beyond those that were asked for, until one comes after a save.
const MORE_KILLS: u64 = 20;

/// Decides over the kills of a proof: as many as were asked for, and more until one has come after a save that left
/// updates to do. Without such a kill nothing is proved.
#[derive(Debug)]
pub struct KillPlan {
    wanted: u64,
    updates: u64,
    lasted: Duration,
    random: Random,
    made: u64,
    /// The last kills, none of which came after a save.
    in_vain: u32,
    after_a_save: u64,
}

impl KillPlan {
    /// Plans `wanted` kills of runs of `updates` updates, of which the uninterrupted one `lasted` this long. `seed` decides
    /// over their times.
    pub fn new(wanted: u64, updates: u64, lasted: Duration, seed: u64) -> KillPlan {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        KillPlan { wanted, updates, lasted, random, made: 0, in_vain: 0, after_a_save: 0 }
    }

    /// Returns whether another kill is wanted.
    pub fn wants_another(&self) -> bool {
        // A run of one update ends at its first save.
        let may_prove_later = self.updates > 1 && self.after_a_save == 0;
        self.made < self.wanted || (may_prove_later && self.made < self.wanted.saturating_add(MORE_KILLS))
    }

    /// Returns the time from a session's start to its kill: anywhere in the time of a whole run, so some sessions reach a
    /// save and some do not. The longer none does, the longer they get, since a session may need longer than the
    /// uninterrupted run: for copies to a remote, or because the machine is busier.
    pub fn next_instant(&mut self) -> Duration {
        self.random.below(self.lasted.mul_f64(1.0 + 0.5 * f64::from(self.in_vain)))
    }

    /// Takes note of a kill. `saved` is the highest global step that the run had saved before it.
    pub fn killed(&mut self, saved: Option<u64>) {
        self.made += 1;
        self.in_vain = if saved.is_none() { self.in_vain + 1 } else { 0 };
        // After the last save, a session only finds the run finished.
        self.after_a_save += u64::from(saved.is_some_and(|saved| saved < self.updates));
    }

    /// Returns the number of kills so far.
    pub fn num_kills(&self) -> u64 {
        self.made
    }

    /// Returns the number of kills after a save that left updates to do.
    pub fn num_after_a_save(&self) -> u64 {
        self.after_a_save
    }
}

/// A small generator: the times of kills need no better one.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        limit.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTED: Duration = Duration::from_secs(2);

    #[test]
    fn kills_go_on_until_one_comes_after_a_save() {
        let mut plan = KillPlan::new(3, 10, LASTED, 1);
        for _ in 0..3 {
            assert!(plan.wants_another());
            plan.killed(None);
        }
        // A save of the last update leaves nothing to do.
        for saved in [Some(10), None] {
            assert!(plan.wants_another());
            plan.killed(saved);
        }
        assert_eq!((plan.num_kills(), plan.num_after_a_save()), (5, 0));
        plan.killed(Some(4));
        assert!(!plan.wants_another());
        assert_eq!(plan.num_after_a_save(), 1);
    }

    #[test]
    fn kills_that_prove_nothing_come_to_an_end() {
        for (updates, expected) in [(10, 3 + MORE_KILLS), (1, 3)] {
            let mut plan = KillPlan::new(3, updates, LASTED, 1);
            while plan.wants_another() {
                plan.killed(None);
            }
            assert_eq!(plan.num_kills(), expected);
        }
    }

    /// After kills in vain, most sessions live longer than the uninterrupted run.
    #[test]
    fn instants_lie_in_the_run_and_move_on_after_kills_in_vain() {
        let share = |in_vain: u32, beyond: Duration| {
            let late = (0..200).filter(|&seed| {
                let mut plan = KillPlan::new(100, 10, LASTED, seed);
                (0..in_vain).for_each(|_| plan.killed(None));
                plan.next_instant();
                plan.next_instant() > beyond
            });
            late.count()
        };
        assert_eq!(share(0, LASTED), 0);
        assert!((60..140).contains(&share(0, LASTED / 2)));
        assert!(share(6, LASTED) > 120);
    }
}
