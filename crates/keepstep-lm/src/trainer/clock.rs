//! The clock of a session. It decides when a save by time is due, and when to stop to finish the last save in time.
//! Nothing here reaches a checkpoint.

use crate::config::Config;
use std::time::{Duration, Instant};

/// The margin added to measured times.
const MARGIN: Duration = Duration::from_secs(1);
/// The assumed speed of the disk in bytes per second, until a save has been measured.
const UNMEASURED_BYTES_PER_SECOND: f64 = 1e8;
/// The assumed speed of a push in bytes per second, until one has been measured.
const UNMEASURED_PUSH: f64 = 2e7;

pub(super) struct Clock {
    started: Instant,
    last_save: Instant,
    save_every: Option<Duration>,
    limit: Option<Duration>,
    longest_update: Duration,
    longest_evaluation: Duration,
    longest_batch: Duration,
    /// The time of the longest measured save, or an estimate from the size of a checkpoint.
    longest_save: Duration,
    is_save_measured: bool,
    /// The time of the longest push to the remote, measured or estimated. Zero without a remote.
    longest_push: Duration,
    is_push_measured: bool,
    batch: Option<Instant>,
}

impl Clock {
    /// Creates the clock of a session that began at `started`.
    pub(super) fn new(config: &Config, started: Instant) -> Clock {
        Clock {
            started,
            last_save: Instant::now(),
            save_every: config.save_every.map(|span| span.0),
            limit: config.session_time_limit.map(|span| span.0),
            longest_update: Duration::ZERO,
            longest_evaluation: Duration::ZERO,
            longest_batch: Duration::ZERO,
            longest_save: Duration::ZERO,
            is_save_measured: false,
            longest_push: Duration::ZERO,
            is_push_measured: false,
            batch: None,
        }
    }

    /// Sets the size of a checkpoint. The time of a save is estimated from it until one has been measured.
    pub(super) fn expect_saves_of(&mut self, len_bytes: u64) {
        if !self.is_save_measured {
            self.longest_save = Duration::from_secs_f64(len_bytes as f64 / UNMEASURED_BYTES_PER_SECOND);
        }
    }

    /// Sets the size of a push to a remote. Its time is estimated until one has been measured.
    pub(super) fn expect_pushes_of(&mut self, len_bytes: u64) {
        if !self.is_push_measured {
            self.longest_push = Duration::from_secs_f64(len_bytes as f64 / UNMEASURED_PUSH);
        }
    }

    /// Records that a push has taken this long.
    pub(super) fn pushed(&mut self, took: Duration) {
        if !std::mem::replace(&mut self.is_push_measured, true) {
            self.longest_push = Duration::ZERO;
        }
        self.longest_push = self.longest_push.max(took);
    }

    /// Records that the current push has already taken this long.
    pub(super) fn pushing_for(&mut self, so_far: Duration) {
        self.longest_push = self.longest_push.max(so_far);
    }

    /// Returns the time until which the end of the session may wait for the remote.
    pub(super) fn push_until(&self) -> Option<Instant> {
        self.limit.map(|limit| self.started + limit.saturating_sub(MARGIN / 2))
    }

    pub(super) fn updated(&mut self, since: Instant) {
        self.longest_update = self.longest_update.max(since.elapsed());
    }

    /// Records that a batch of an evaluation begins.
    pub(super) fn batch(&mut self) {
        if let Some(since) = self.batch.replace(Instant::now()) {
            self.longest_batch = self.longest_batch.max(since.elapsed());
        }
    }

    /// Records that an evaluation that began at `since` is complete.
    pub(super) fn evaluated(&mut self, since: Instant) {
        self.longest_evaluation = self.longest_evaluation.max(since.elapsed());
        self.batch = None;
    }

    /// Records that a save has begun. The next save by time is counted from now.
    pub(super) fn saving(&mut self) {
        self.last_save = Instant::now();
    }

    /// Records that the current save has already taken this long.
    pub(super) fn saving_for(&mut self, so_far: Duration) {
        self.longest_save = self.longest_save.max(so_far);
    }

    /// Records that a save has ended.
    pub(super) fn saved(&mut self, took: Duration) {
        if !std::mem::replace(&mut self.is_save_measured, true) {
            self.longest_save = Duration::ZERO;
        }
        self.longest_save = self.longest_save.max(took);
    }

    pub(super) fn save_is_due(&self) -> bool {
        self.save_every.is_some_and(|every| self.last_save.elapsed() >= every)
    }

    /// Reports whether the time is up. Used while there is nothing to save.
    pub(super) fn is_over_unsaved(&self) -> bool {
        self.is_over_with(Duration::ZERO)
    }

    /// Reports whether one more update and the saves might exceed the limit.
    pub(super) fn is_over(&self) -> bool {
        self.is_over_with(self.longest_update * 2 + self.saves())
    }

    /// Reports whether an evaluation and the saves might exceed the limit.
    pub(super) fn is_over_for_evaluation(&self) -> bool {
        self.is_over_with(self.longest_evaluation + self.longest_batch + self.saves())
    }

    /// Reports whether one more batch of an evaluation and the saves might exceed the limit.
    pub(super) fn is_over_in_evaluation(&self) -> bool {
        self.is_over_with(self.longest_batch * 2 + self.saves())
    }

    /// Returns the time of two saves and two pushes: those that may be running, and the last ones.
    fn saves(&self) -> Duration {
        (self.longest_save + self.longest_push) * 2
    }

    fn is_over_with(&self, needed: Duration) -> bool {
        self.limit.is_some_and(|limit| self.started.elapsed() + (needed + MARGIN).min(limit / 2) >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TimeSpan;

    /// Creates the clock of a session with a limit of 100 s that began this long ago.
    fn clock(seconds: u64) -> Clock {
        let limit = Some(TimeSpan(Duration::from_secs(100)));
        let config = Config { session_time_limit: limit, ..Config::default() };
        let started = Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a past");
        Clock::new(&config, started)
    }

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a past")
    }

    #[test]
    fn what_is_left_must_fit() {
        assert!(!clock(98).is_over_unsaved());
        assert!(clock(99).is_over_unsaved());
        let mut slow = clock(80);
        assert!(!slow.is_over());
        slow.updated(ago(5));
        assert!(!slow.is_over());
        slow.saved(Duration::from_secs(5));
        assert!(slow.is_over(), "20 s are left, and two updates and two saves take 20 s");
        let mut slow = clock(80);
        slow.evaluated(ago(10));
        slow.saved(Duration::from_secs(5));
        assert!(!slow.is_over(), "an evaluation may stay pending");
        assert!(slow.is_over_for_evaluation());
        assert!(!slow.is_over_in_evaluation());
    }

    #[test]
    fn a_save_that_was_never_measured_is_expected_by_its_size() {
        let mut clock = clock(80);
        clock.expect_saves_of(1_000_000_000);
        assert!(clock.is_over());
        clock.saved(Duration::from_secs(1));
        assert!(!clock.is_over(), "what was measured counts");
        clock.expect_saves_of(1_000_000_000);
        assert!(!clock.is_over());
        clock.saving_for(Duration::from_secs(12));
        assert!(clock.is_over(), "one that is under way counts with what it has taken");
    }

    #[test]
    fn pushes_need_room_too() {
        let mut clock = clock(80);
        clock.saved(Duration::from_secs(1));
        assert!(!clock.is_over());
        clock.expect_pushes_of(200_000_000);
        assert!(clock.is_over(), "two pushes of 10 s do not fit any more");
        clock.pushed(Duration::from_secs(2));
        assert!(!clock.is_over(), "what was measured counts");
        clock.pushing_for(Duration::from_secs(9));
        assert!(clock.is_over(), "one that is under way counts with what it has taken");
        assert!(clock.push_until().is_some_and(|until| until > Instant::now()));
    }

    /// A save that takes longer than everything still leaves half of the session to train.
    #[test]
    fn half_of_the_time_is_for_training() {
        let mut clock = clock(40);
        clock.saved(Duration::from_secs(500));
        assert!(!clock.is_over());
        assert!(!Clock::new(&Config::default(), ago(1_000_000)).is_over());
    }
}
