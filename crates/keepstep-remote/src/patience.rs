//! How long the end of a session waits for a remote that fails, or does not answer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Failures in a row after which waiting ends.
const FAILURES: u32 = 3;

/// When a store last answered a request.
#[derive(Debug)]
pub(crate) struct Pulse {
    since: Instant,
    millis: AtomicU64,
}

impl Pulse {
    pub(crate) fn new() -> Pulse {
        Pulse { since: Instant::now(), millis: AtomicU64::new(0) }
    }

    /// Notes that a request has succeeded.
    pub(crate) fn beat(&self) {
        self.millis.store(self.since.elapsed().as_millis() as u64, Relaxed);
    }

    /// When a request last succeeded, or the connection began.
    pub(crate) fn last(&self) -> Instant {
        self.since + Duration::from_millis(self.millis.load(Relaxed))
    }
}

/// What is left of the patience with one remote, from the beginning of the wait.
#[derive(Debug)]
pub(crate) struct Patience {
    began: Instant,
    failures_left: u32,
}

impl Patience {
    /// Waiting begins after so many failures in a row. At least one more attempt is made.
    pub(crate) fn new(failures: u32) -> Patience {
        Patience { began: Instant::now(), failures_left: FAILURES.saturating_sub(failures).max(1) }
    }

    pub(crate) fn failed(&mut self) {
        self.failures_left = self.failures_left.saturating_sub(1);
    }

    pub(crate) fn succeeded(&mut self) {
        self.failures_left = FAILURES;
    }

    /// Allows for one more attempt.
    pub(crate) fn extend(&mut self) {
        self.failures_left = self.failures_left.max(1);
    }

    /// When waiting ends unless a request succeeds before.
    pub(crate) fn ends(&self, pulse: &Pulse, silence: Duration) -> Instant {
        if self.failures_left == 0 { self.began } else { pulse.last().max(self.began) + silence }
    }
}
