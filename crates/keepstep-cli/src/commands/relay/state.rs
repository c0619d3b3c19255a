//! What relay remembers from one step to the next.

use crate::failure::Failure;
use keepstep::run::Status;
use keepstep::store::write_whole;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Relay's folder next to the notebook.
const FOLDER: &str = ".keepstep-relay";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) notebook: String,
    /// Sessions that were started.
    pub(super) sessions: u64,
    /// The notebook's version that the last one has.
    pub(super) version: Option<u64>,
    /// The version of the last one that made progress.
    pub(super) good_version: Option<u64>,
    /// Whether the last one may still be running, or its end was not looked at yet.
    pub(super) in_flight: bool,
    /// The run's id, once a session has shown it.
    pub(super) run: Option<String>,
    pub(super) global_step: u64,
    pub(super) total_steps: u64,
    /// The log of the last session that ended.
    pub(super) log: Option<String>,
}

impl State {
    /// Takes over what a session has reached.
    pub(super) fn adopt(&mut self, status: &Status) {
        self.run = Some(status.id.clone());
        self.global_step = status.global_step;
        self.total_steps = status.total_steps;
    }
}

/// The state with its file, locked against a second relay.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) state: State,
    folder: PathBuf,
    _lock: File,
}

impl Relay {
    pub(super) fn open(notebook_folder: &Path, notebook: &str) -> Result<Relay, Failure> {
        let folder = notebook_folder.join(FOLDER);
        let failed = |error: std::io::Error| Failure::at(&folder, &error);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            let message = format!("{}: another relay is at work on this notebook", notebook_folder.display());
            return Err(Failure::new(1, message));
        }
        let path = folder.join("state.json");
        let new = State { notebook: notebook.to_owned(), ..State::default() };
        let state = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                let message =
                    format!("{}: it cannot be read: {error}; remove it to begin anew", path.display());
                Failure::new(1, message)
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => new.clone(),
            Err(error) => return Err(Failure::at(&path, &error)),
        };
        // Another notebook in the same folder is another relay.
        let state: State = if state.notebook == notebook { state } else { new };
        Ok(Relay { state, folder, _lock: lock })
    }

    pub(super) fn save(&self) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&self.state).map_err(|error| Failure::of(1, &error))?;
        let path = self.folder.join("state.json");
        write_whole(&path, (text + "\n").as_bytes()).map_err(|error| Failure::at(&path, &error))
    }

    /// Keeps the log of a session.
    pub(super) fn save_log(&mut self, log: &str) -> Result<(), Failure> {
        let path = self.folder.join(format!("session-{}.log", self.state.sessions));
        std::fs::write(&path, log).map_err(|error| Failure::at(&path, &error))?;
        self.state.log = Some(path.display().to_string());
        Ok(())
    }
}
