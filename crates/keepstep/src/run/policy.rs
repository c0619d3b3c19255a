//! What may change between the sessions of a run without changing a byte.

use crate::cadence::Cadence;
use crate::metrics::Objective;
use crate::store::Source;

/// How a run saves, evaluates and resumes.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Save a checkpoint every so many updates, in addition to the ends of epochs.
    pub save_steps: u64,
    /// How many of the newest scheduled checkpoints to keep, at least 1.
    pub max_checkpoints: usize,
    /// Evaluate every so many updates, in addition to the ends of epochs. This one does change the result: it belongs
    /// in the identity's config. None never evaluates.
    pub eval_steps: Option<u64>,
    /// Which metric decides the best. It changes the result, and a checkpoint has it.
    pub objective: Objective,
    /// What to continue from.
    pub resume: Resume,
    /// Write `status.json` into the folder: the run's state, position and reason, for other programs.
    pub status_file: bool,
    /// Accept a checkpoint of another numerics version.
    pub allow_other_numerics: bool,
}

/// What a run continues from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// The newest valid checkpoint of the folder and the source.
    Newest(Source),
    /// The source, even where the folder has later checkpoints: those are moved to `superseded/`.
    Rewind(Source),
    /// Nothing: an error if the folder has checkpoints.
    Never,
}

impl Policy {
    /// When evaluations and saves are due.
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
        }
    }
}
