//! `status.json`: the state of a run, for other programs.

use super::RemoteStatus;
use crate::position::{Plan, Position};
use crate::store::write_whole;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// The file's name in the run's folder.
pub const STATUS_FILE: &str = "status.json";

/// The content of `status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The run's id: see [`Run::id`](super::Run::id).
    pub id: String,
    /// The run's state.
    pub state: RunState,
    /// Why the session or the run has ended. None while it is running.
    pub reason: Option<String>,
    /// The epoch.
    pub epoch: u64,
    /// Micro-batches completed in this epoch.
    pub step: u64,
    /// Updates completed.
    pub global_step: u64,
    /// Updates of the whole run.
    pub total_steps: u64,
    /// The last file that was saved and verified.
    pub checkpoint: Option<String>,
    /// The copy in another place, if the run has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteStatus>,
    /// The machine that the session runs on.
    pub host: String,
    /// The id of its process there.
    pub pid: u32,
}

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunState {
    /// A session is training, or was killed.
    Running,
    /// The session has ended before the run; the next one continues.
    Stopped,
    /// Nothing is left to do.
    Finished,
}

impl Status {
    pub(super) fn new(id: &str, plan: &Plan, position: Position) -> Status {
        Status {
            id: id.to_owned(),
            state: RunState::Running,
            reason: None,
            epoch: position.epoch,
            step: position.step,
            global_step: position.global_step,
            total_steps: plan.total_steps,
            checkpoint: None,
            remote: None,
            host: crate::journal::host(),
            pid: std::process::id(),
        }
    }

    /// Reads the status of the run in a folder.
    ///
    /// # Errors
    /// The file does not exist or cannot be read.
    pub fn read(folder: &Path) -> io::Result<Status> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join(STATUS_FILE))?)?)
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        write_whole(&folder.join(STATUS_FILE), &text)
    }
}
