//! One session of a run: from wherever it stands to its end, or to the request to stop.

use super::error::TrainError;
use super::learner::Learner;
use super::observer::{EvaluationReport, Observer, PlanReport, ResumeReport, UpdateReport};
use crate::config::Config;
use crate::corpus::Corpus;
use keepstep::run::Run;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a session is steered from outside.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// Set it, and the run stops at the next update boundary, with a checkpoint.
    pub stop: Arc<AtomicBool>,
    /// Set it, and a checkpoint is made at the next update boundary.
    pub save: Arc<AtomicBool>,
    /// Stop after this many updates of this session, as if `stop` had been set.
    pub stop_after: Option<u64>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The run is complete.
    Finished,
    /// Stopped early; the same command continues.
    Stopped,
}
