//! Finding the checkpoint that a run continues from.

use super::file_name;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::name::{BEST_MODEL, Name};
use keepstep_pt::{File, ReadError, Value};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where to look beside the run's own folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A checkpoint, or a folder of them. It is only ever read.
    Path(PathBuf),
    /// Nowhere.
    None,
}

/// Where checkpoints are looked for.
#[derive(Debug, Clone)]
pub struct Candidates<'a> {
    /// The run's own folder; it need not exist.
    pub folder: &'a Path,
    /// The other place.
    pub source: &'a Source,
    /// Whether the source is taken even where the folder has a later checkpoint.
    pub source_only: bool,
}

/// The newest valid checkpoint.
#[derive(Debug)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// Its content; tensors are read from the file when they are asked for.
    pub checkpoint: Checkpoint,
    /// What was looked at and not taken, newest first.
    pub passed: Vec<Passed>,
}

/// A candidate that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Nothing to continue from where there should be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The configured source is not there.
    #[error("{path}: the checkpoint (or folder of checkpoints) to resume from is not there")]
    Missing {
        /// The source.
        path: PathBuf,
    },
    /// A folder was named that has no checkpoint.
    #[error("{path}: the folder to resume from has no checkpoint")]
    Empty {
        /// The source.
        path: PathBuf,
    },
    /// A folder cannot be read.
    #[error("{path}: the folder cannot be read")]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are files, and none of them holds.
    #[error("{}", nothing_valid(passed))]
    NothingValid {
        /// Every file that was tried.
        passed: Vec<Passed>,
    },
}

fn nothing_valid(passed: &[Passed]) -> String {
    let list: Vec<String> =
        passed.iter().map(|file| format!("{} ({})", file.path.display(), file.reason)).collect();
    format!(
        "every checkpoint is damaged, so there is nothing to continue from: {}; put a good copy in their place, or \
         choose another output_dir to begin anew",
        list.join("; ")
    )
}

/// Finds the valid checkpoint with the highest global step: in the folder, or in the source where that is later. A
/// valid best is the last resort. None where there is no checkpoint at all and no source is set.
///
/// # Errors
/// A source that is missing or empty, or nothing but damaged files.
pub fn find(candidates: &Candidates<'_>) -> Result<Option<Found>, SourceError> {
    let mut files = Vec::new();
    if !candidates.source_only && candidates.folder.is_dir() {
        collect(candidates.folder, &mut files)?;
    }
    if let Source::Path(path) = candidates.source {
        if path.is_dir() {
            let before = files.len();
            collect(path, &mut files)?;
            if files.len() == before {
                return Err(SourceError::Empty { path: path.clone() });
            }
        } else if path.exists() {
            files.push(path.clone());
        } else {
            return Err(SourceError::Missing { path: path.clone() });
        }
    }
    let mut passed = Vec::new();
    let mut opened = Vec::new();
    for path in files {
        match open(&path) {
            Ok((file, checkpoint)) => opened.push((path, file, checkpoint)),
            Err(error) => passed.push(Passed { path, reason: chain(&error) }),
        }
    }
    // Best models last; then by what the file says; on ties the folder's own, which came first.
    let is_best = |path: &Path| file_name(path) == Some(BEST_MODEL);
    opened.sort_by_key(|(path, _, checkpoint)| {
        (is_best(path), std::cmp::Reverse(checkpoint.position.global_step))
    });
    for (path, file, checkpoint) in opened {
        match file.verify() {
            Ok(_) => return Ok(Some(Found { path, checkpoint, passed })),
            Err(error) => passed.push(Passed { path, reason: chain(&error) }),
        }
    }
    if passed.is_empty() { Ok(None) } else { Err(SourceError::NothingValid { passed }) }
}

/// A file that is no usable checkpoint.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is damaged, or no `.pt` file at all.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is not one of keepstep's checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Opens a checkpoint and checks every checksum in it.
///
/// # Errors
/// It is damaged, or not one of keepstep's.
pub fn load(path: &Path) -> Result<Checkpoint, OpenError> {
    let (file, checkpoint) = open(path)?;
    file.verify()?;
    Ok(checkpoint)
}

/// Opens a file and reads its root; the tensors' checksums are not yet checked.
pub(crate) fn open(path: &Path) -> Result<(File, Checkpoint), OpenError> {
    let file = File::open(path)?;
    let checkpoint = Checkpoint::from_value(file.value())?;
    Ok((file, checkpoint))
}

/// The checkpoints of a folder, and its best model.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let unreadable = |source| SourceError::Unreadable { path: folder.to_path_buf(), source };
    let first = files.len();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if file_name(&path).is_some_and(|name| name == BEST_MODEL || Name::parse(name).is_some()) {
            files.push(path);
        }
    }
    files[first..].sort();
    Ok(())
}

/// The global step that a file holds, if it can be opened at all.
pub(super) fn stated_global_step(path: &Path) -> Option<u64> {
    let file = File::open(path).ok()?;
    let step = file.value().as_dict()?.get("global_step").and_then(Value::as_int)?;
    u64::try_from(step).ok()
}

/// An error and its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
