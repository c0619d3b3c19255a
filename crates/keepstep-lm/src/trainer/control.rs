//! How a session is controlled from outside, and how it ends.

use keepstep::remote::{Remote, RemotePolicy};
use keepstep::run::Resume;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32};
use std::time::Instant;

/// Controls a session from outside.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// If set, the run stops at the next update boundary, with a checkpoint.
    pub stop: Arc<AtomicBool>,
    /// The signal number that set `stop`, for the journal, or 0.
    pub stopped_by: Arc<AtomicI32>,
    /// If set, a checkpoint is saved at the next update boundary.
    pub save: Arc<AtomicBool>,
    /// Stop after this many updates of this session, as if `stop` had been set.
    pub stop_after: Option<u64>,
    /// Stop at this global step, as if `stop` had been set.
    pub stop_at: Option<u64>,
    /// The source to continue from. The default is the config's source, or else the newest checkpoint.
    pub resume: Option<Resume>,
    /// The start of the session for its time limit. The default is now.
    pub started: Option<Instant>,
    /// The place that outlives the machine.
    pub remote: Option<RemotePolicy>,
    /// Another run or checkpoint in such a place to continue from. It is only read.
    pub resume_remote: Option<Arc<dyn Remote>>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The run is complete.
    Finished {
        /// A sample text, or the reason why there is none.
        sample: Option<Result<String, String>>,
        /// The reason if the run is complete and its copy in the other place is not.
        not_pushed: Option<String>,
    },
    /// The run stopped early. The same command continues it.
    Stopped {
        /// The reason for the stop.
        reason: StopReason,
        /// The current global step, or `None` if the run was not open yet.
        global_step: Option<u64>,
        /// Whether this session made any progress.
        has_progress: bool,
        /// The last checkpoint of this session, if there is one.
        checkpoint: Option<PathBuf>,
    },
}

/// Why a session stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The flag [`Control::stop`] was set.
    Signal,
    /// The session's time limit was reached.
    TimeLimit,
    /// The update given by [`Control::stop_after`] or [`Control::stop_at`] was reached.
    Asked,
}

impl StopReason {
    /// Returns the word for the journal.
    pub(super) fn text(self, signal: i32) -> &'static str {
        use rustix::process::Signal;
        match self {
            StopReason::Signal => match Signal::from_named_raw(signal) {
                Some(Signal::HUP) => "SIGHUP",
                Some(Signal::INT) => "SIGINT",
                Some(Signal::TERM) => "SIGTERM",
                Some(Signal::USR2) => "SIGUSR2",
                Some(Signal::XCPU) => "SIGXCPU",
                _ => "signal",
            },
            StopReason::TimeLimit => "time limit",
            StopReason::Asked => "as asked",
        }
    }
}
