//! How long the end of a session waits for a remote that fails, or does not answer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Failures in a row after which waiting ends.
const FAILURES: u32 = 3;

/// The slowest transfer that is waited for, in bytes per second. Four parts at this speed take as long as one request may.
const SLOWEST: u64 = 192 << 10;

/// When a store last answered a request, and how much is on its way.
#[derive(Debug)]
pub(crate) struct Pulse {
    since: Instant,
    millis: AtomicU64,
    bytes_under_way: AtomicU64,
}

/// Bytes that are on their way until this is dropped.
pub(crate) struct UnderWay<'a> {
    pulse: &'a Pulse,
    bytes: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.pulse.bytes_under_way.fetch_sub(self.bytes, Relaxed);
    }
}

impl Pulse {
    pub(crate) fn new() -> Pulse {
        Pulse { since: Instant::now(), millis: AtomicU64::new(0), bytes_under_way: AtomicU64::new(0) }
    }

    /// Notes that a request has succeeded.
    pub(crate) fn beat(&self) {
        self.millis.store(self.since.elapsed().as_millis() as u64, Relaxed);
    }

    /// Notes that a request sends or brings so many bytes.
    pub(crate) fn under_way(&self, bytes: u64) -> UnderWay<'_> {
        self.bytes_under_way.fetch_add(bytes, Relaxed);
        UnderWay { pulse: self, bytes }
    }

    /// How long what is on its way takes on the slowest connection that is waited for.
    fn transfer(&self) -> Duration {
        Duration::from_secs_f64(self.bytes_under_way.load(Relaxed) as f64 / SLOWEST as f64)
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

    /// When waiting ends unless a request succeeds before. On a slow connection, large parts get the time that they take.
    pub(crate) fn ends(&self, pulse: &Pulse, silence: Duration) -> Instant {
        if self.failures_left == 0 {
            self.began
        } else {
            pulse.last().max(self.began) + silence + pulse.transfer()
        }
    }
}
