//! What a session that has ended means for the next one.

use super::state::State;
use keepstep::run::{RunState, Status};
use std::fmt;

/// Where Kaggle says that a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// It waits for a machine.
    Queued,
    /// It runs, or is being stopped.
    Running,
    /// It ran to its end.
    Complete,
    /// It ended otherwise: Kaggle's word, and its message.
    Failed {
        /// `ERROR` or `CANCEL_ACKNOWLEDGED`.
        word: String,
        /// What Kaggle adds.
        message: Option<String>,
    },
}

impl Phase {
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Phase::Queued | Phase::Running)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Queued => f.write_str("queued"),
            Phase::Running => f.write_str("running"),
            Phase::Complete => f.write_str("complete"),
            Phase::Failed { word, message: Some(message) } => write!(f, "{word}: {message}"),
            Phase::Failed { word, message: None } => f.write_str(word),
        }
    }
}

/// A session's output, as far as relay reads it.
#[derive(Debug, Default)]
pub(super) struct SessionOutput {
    pub(super) status: Option<Status>,
    /// Whether there is certainly no status, as opposed to one that could not be fetched, read or chosen.
    pub(super) is_absent: bool,
    /// Why there is no status.
    pub(super) missing: Option<String>,
    pub(super) log: Option<String>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start the next session.
    GoOn,
    /// The run is complete.
    Finished,
    /// Stop, with this reason.
    Failed(String),
}

/// Decides. Another session is started only if this one has made progress with the same run.
pub(super) fn judge(phase: &Phase, found: &SessionOutput, before: &State) -> Verdict {
    if let Phase::Failed { .. } = phase {
        return Verdict::Failed(format!(
            "failed ({phase}); if it ran into Kaggle's time limit, let the run end before it (session_time_limit)"
        ));
    }
    let Some(status) = &found.status else {
        let missing = found.missing.as_deref().unwrap_or("its output has no status.json");
        return Verdict::Failed(format!("cannot be continued: {missing}"));
    };
    if let Some(run) = before.run.as_ref().filter(|run| **run != status.id) {
        return Verdict::Failed(format!(
            "trained another run ({} instead of {run}): a setting has changed, or the input was not attached",
            status.id
        ));
    }
    if status.state == RunState::Finished {
        return Verdict::Finished;
    }
    if status.global_step <= before.global_step {
        return Verdict::Failed(format!(
            "made no progress: it ended at global step {}, and began at {}",
            status.global_step, before.global_step
        ));
    }
    Verdict::GoOn
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ended(state: &str, id: &str, global_step: u64) -> SessionOutput {
        let status = json!({
            "id": id, "state": state, "reason": "time limit", "epoch": 1, "step": 1, "global_step": global_step,
            "total_steps": 12, "checkpoint": null, "host": "h", "pid": 1,
        });
        SessionOutput { status: serde_json::from_value(status).ok(), ..SessionOutput::default() }
    }

    #[test]
    fn another_session_follows_only_progress_of_the_same_run() {
        let state = State { run: Some("a".to_owned()), global_step: 5, ..State::default() };
        let judge = |found: &SessionOutput| judge(&Phase::Complete, found, &state);
        assert_eq!(judge(&ended("stopped", "a", 6)), Verdict::GoOn);
        // A session that Kaggle cut off, but whose output it kept.
        assert_eq!(judge(&ended("running", "a", 9)), Verdict::GoOn);
        assert_eq!(judge(&ended("finished", "a", 5)), Verdict::Finished);
        for (found, part) in [
            (ended("stopped", "a", 5), "no progress"),
            (ended("stopped", "a", 0), "no progress"),
            (ended("finished", "b", 12), "another run"),
            (SessionOutput::default(), "no status.json"),
        ] {
            assert!(matches!(judge(&found), Verdict::Failed(reason) if reason.contains(part)), "{part}");
        }
        let failed = Phase::Failed { word: "ERROR".to_owned(), message: Some("out of memory".to_owned()) };
        let verdict = super::judge(&failed, &ended("stopped", "a", 9), &state);
        assert!(
            matches!(verdict, Verdict::Failed(reason) if reason.starts_with("failed (ERROR: out of memory)"))
        );
    }
}
