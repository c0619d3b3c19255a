//! Finding the checkpoint that a run continues from.

use super::{Disk, Storage, file_name};
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
pub struct Newest {
    /// The file.
    pub path: PathBuf,
    /// Its content; tensors are read from the file when they are asked for.
    pub checkpoint: Checkpoint,
    /// What was looked at and not taken, newest first.
    pub skipped: Vec<Skipped>,
}

/// A candidate that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Skipped {
    /// The reason without the path, which is shown next to it.
    fn new(path: PathBuf, error: &dyn Error) -> Skipped {
        let text = chain(error);
        let name = format!("{}: ", path.display());
        let reason = text.strip_prefix(&name).unwrap_or(&text).to_owned();
        Skipped { path, reason }
    }
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
    #[error("{}", nothing_valid(skipped))]
    NothingValid {
        /// Every file that was tried.
        skipped: Vec<Skipped>,
    },
}

fn nothing_valid(skipped: &[Skipped]) -> String {
    let list: Vec<String> =
        skipped.iter().map(|file| format!("{} ({})", file.path.display(), file.reason)).collect();
    format!("no checkpoint can be used, so there is nothing to continue from: {}", list.join("; "))
}

/// Finds the valid checkpoint with the highest global step: in the folder, or in the source where that is later. A
/// valid best is the last resort. None where there is no checkpoint at all and no source is set.
///
/// # Errors
/// A source that is missing or empty, or nothing but damaged files.
pub fn find(storage: &dyn Storage, candidates: &Candidates<'_>) -> Result<Option<Newest>, SourceError> {
    let is_folder = |path: &Path| storage.metadata(path).map(|metadata| metadata.is_folder).ok();
    let mut files = Vec::new();
    if !candidates.source_only && is_folder(candidates.folder) == Some(true) {
        collect(storage, candidates.folder, &mut files)?;
    }
    if let Source::Path(path) = candidates.source {
        match is_folder(path) {
            Some(true) => {
                let before = files.len();
                collect(storage, path, &mut files)?;
                if files.len() == before {
                    return Err(SourceError::Empty { path: path.clone() });
                }
            }
            Some(false) => files.push(path.clone()),
            None => return Err(SourceError::Missing { path: path.clone() }),
        }
    }
    let mut skipped = Vec::new();
    let mut opened = Vec::new();
    for path in files {
        match open(storage, &path) {
            Ok((file, checkpoint)) => opened.push((path, file, checkpoint)),
            Err(error) => skipped.push(Skipped::new(path, &error)),
        }
    }
    // Best models last; then by what the file says; on ties the folder's own, which came first.
    let is_best = |path: &Path| file_name(path) == Some(BEST_MODEL);
    opened.sort_by_key(|(path, _, checkpoint)| {
        (is_best(path), std::cmp::Reverse(checkpoint.position.global_step))
    });
    for (path, file, checkpoint) in opened {
        match file.verify_at_once() {
            Ok(_) => return Ok(Some(Newest { path, checkpoint, skipped })),
            Err(error) => skipped.push(Skipped::new(path, &error)),
        }
    }
    if skipped.is_empty() { Ok(None) } else { Err(SourceError::NothingValid { skipped }) }
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
    let (file, checkpoint) = open(&Disk, path)?;
    file.verify_at_once()?;
    Ok(checkpoint)
}

/// Opens a file and reads its root; the tensors' checksums are not yet checked.
pub(crate) fn open(storage: &dyn Storage, path: &Path) -> Result<(File, Checkpoint), OpenError> {
    let file = open_file(storage, path)?;
    let checkpoint = match Checkpoint::from_value(file.value()) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            // What decayed may still parse: then that is the reason to be told.
            file.verify()?;
            return Err(error.into());
        }
    };
    Ok((file, checkpoint))
}

/// Opens a file that need not be a checkpoint.
pub(super) fn open_file(storage: &dyn Storage, path: &Path) -> Result<File, ReadError> {
    let source = storage.open(path).map_err(|error| ReadError::io(path, error))?;
    File::from_source(path, source)
}

/// The checkpoints of a folder, and its best model.
fn collect(storage: &dyn Storage, folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let unreadable = |source| SourceError::Unreadable { path: folder.to_path_buf(), source };
    let is_candidate = |path: &PathBuf| {
        file_name(path).is_some_and(|name| name == BEST_MODEL || Name::parse(name).is_some())
    };
    files.extend(storage.list(folder).map_err(unreadable)?.into_iter().filter(is_candidate));
    Ok(())
}

/// The global step that a file holds, if it can be opened at all.
pub(super) fn stated_global_step(storage: &dyn Storage, path: &Path) -> Option<u64> {
    let file = open_file(storage, path).ok()?;
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
