//! The time of a session: when a save by time is due, and when to stop so that the last save is finished in time. Nothing
//! of it reaches a checkpoint.

use crate::config::Config;
use std::time::{Duration, Instant};

/// Room beside the measured times.
const MARGIN: Duration = Duration::from_secs(1);

pub(super) struct Clock {
    started: Instant,
    last_save: Instant,
    save_every: Option<Duration>,
    limit: Option<Duration>,
    longest_update: Duration,
    longest_evaluation: Duration,
    longest_save: Duration,
}

impl Clock {
    pub(super) fn new(config: &Config) -> Clock {
        let now = Instant::now();
        Clock {
            started: now,
            last_save: now,
            save_every: config.save_every.map(|span| span.0),
            limit: config.session_time_limit.map(|span| span.0),
            longest_update: Duration::ZERO,
            longest_evaluation: Duration::ZERO,
            longest_save: Duration::ZERO,
        }
    }

    pub(super) fn updated(&mut self, since: Instant) {
        self.longest_update = self.longest_update.max(since.elapsed());
    }

    pub(super) fn evaluated(&mut self, since: Instant) {
        self.longest_evaluation = self.longest_evaluation.max(since.elapsed());
    }

    /// A save has begun: the next one by time is due this much later.
    pub(super) fn saving(&mut self) {
        self.last_save = Instant::now();
    }

    /// A save has ended, or has taken so long already.
    pub(super) fn saved(&mut self, took: Duration) {
        self.longest_save = self.longest_save.max(took);
    }

    pub(super) fn save_is_due(&self) -> bool {
        self.save_every.is_some_and(|every| self.last_save.elapsed() >= every)
    }

    /// Whether one more update, an evaluation, the save that is under way and the last one might not end within the limit.
    pub(super) fn is_over(&self) -> bool {
        let needed = self.longest_update * 2 + self.longest_evaluation + self.longest_save * 2 + MARGIN;
        self.limit.is_some_and(|limit| self.started.elapsed() + needed.min(limit / 2) >= limit)
    }
}
