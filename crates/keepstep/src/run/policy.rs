//! Settings that may change between the sessions of a run, and the two that belong to its identity.

use crate::cadence::Cadence;
use crate::metrics::Objective;
use crate::remote::{Remote, RemotePolicy};
use crate::store::Source;
use std::sync::Arc;

/// How a run saves, evaluates and resumes.
///
/// Every field has a default: write `Policy { save_steps: 100, ..Policy::default() }`. New fields may be added.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Updates from one scheduled save to the next. The ends of epochs are saved too.
    pub save_steps: u64,
    /// Number of the newest scheduled checkpoints to keep, at least 1.
    pub max_checkpoints: usize,
    /// Updates from one evaluation to the next. The ends of epochs are evaluated too. This setting changes the result,
    /// so put it into the identity's config. None never evaluates.
    pub eval_steps: Option<u64>,
    /// The metric that decides the best model. It changes the result, and checkpoints store it.
    pub objective: Objective,
    /// The checkpoint to continue from.
    pub resume: Resume,
    /// Whether to write `status.json` into the folder: the run's state, position and reason, for other programs.
    pub status_file: bool,
    /// Whether to accept a checkpoint of another numerics version.
    pub allow_other_numerics: bool,
    /// A place that outlives the machine: the run continues from it and copies its saves to it.
    pub remote: Option<RemotePolicy>,
    /// Another such place to continue from, in addition to the source. It is only read. A rewind goes back to its newest
    /// checkpoint.
    pub resume_remote: Option<Arc<dyn Remote>>,
}

/// The checkpoint that a run continues from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// The newest valid checkpoint in the folder and the source.
    Newest(Source),
    /// The source, even if the folder has later checkpoints: those are moved to `superseded/`.
    Rewind(Source),
    /// None: the run is new, and a folder with checkpoints is an error.
    Never,
}

impl Policy {
    /// Returns when evaluations and saves are due.
    pub fn cadence(&self) -> Cadence {
        Cadence::new(self.save_steps, self.eval_steps)
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            save_steps: 1000,
            max_checkpoints: 4,
            eval_steps: None,
            objective: Objective::default(),
            resume: Resume::Newest(Source::None),
            status_file: false,
            allow_other_numerics: false,
            remote: None,
            resume_remote: None,
        }
    }
}
