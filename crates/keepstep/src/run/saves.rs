//! What has become of saves.

use crate::position::Position;
use crate::store::StoreError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// One save that has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Save {
    /// Where the run was.
    pub position: Position,
    /// The files that are durable and verified, in the order in which they became so.
    pub files: Vec<PathBuf>,
    /// Whether all of it was done. Where it was not, what `files` names is saved all the same.
    pub result: Result<(), StoreError>,
    /// From the start of writing to the end of rotation.
    pub took: Duration,
    pub(super) journal_failure: Option<io::Error>,
}

/// The saves that have ended since this was last asked.
///
/// # Durability
/// What a [`Save`] names outlives the loss of power. What is still being written does not yet: see [`Run::saving_for`].
///
/// [`Run::saving_for`]: super::Run::saving_for
#[must_use = "a save in the background may have failed: `check` says so"]
#[derive(Debug, Default)]
pub struct Saves {
    /// Oldest first.
    pub ended: Vec<Save>,
    /// Whether a new save was handed to the writer.
    pub begun: bool,
    /// How long the caller was kept waiting for an earlier save.
    pub waited: Option<Duration>,
}

impl Saves {
    /// The files that are durable and verified.
    ///
    /// # Errors
    /// Why the first of the saves failed that did; everything older is untouched.
    pub fn check(self) -> Result<Vec<PathBuf>, StoreError> {
        let mut files = Vec::new();
        for save in self.ended {
            save.result?;
            files.extend(save.files);
        }
        Ok(files)
    }
}
