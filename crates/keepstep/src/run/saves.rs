//! Results of saves.

use crate::position::Position;
use crate::store::StoreError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The result of one save.
#[derive(Debug)]
#[non_exhaustive]
pub struct Save {
    /// The position of the run.
    pub position: Position,
    /// The files that are durable and verified, in the order in which they became so.
    pub files: Vec<PathBuf>,
    /// Whether all of it succeeded. If not, `files` are saved all the same.
    pub result: Result<(), StoreError>,
    /// Time from the start of writing to the end of rotation.
    pub took: Duration,
    pub(super) journal_failure: Option<io::Error>,
}

/// The saves that have ended since the last call.
///
/// # Durability
/// The files of a [`Save`] survive a loss of power. A save in progress ([`Run::saving_for`]) may not.
///
/// [`Run::saving_for`]: super::Run::saving_for
#[must_use = "a save in the background may have failed: `check` reports it"]
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Saves {
    /// Oldest first.
    pub ended: Vec<Save>,
    /// Whether a new save has begun.
    pub begun: bool,
    /// How long the call waited for an earlier save.
    pub waited: Option<Duration>,
}

impl Saves {
    /// Returns the files that are durable and verified.
    ///
    /// # Errors
    /// The error of the first save that failed. Everything older is untouched.
    pub fn check(self) -> Result<Vec<PathBuf>, StoreError> {
        let mut files = Vec::new();
        for save in self.ended {
            save.result?;
            files.extend(save.files);
        }
        Ok(files)
    }
}
