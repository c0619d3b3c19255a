//! Finding the checkpoint that a run continues from.

use super::{Disk, Storage, file_name};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::name::{BEST_MODEL, Name};
use keepstep_pt::{File, ReadError, Value};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A place to look in addition to the run's own folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A checkpoint, or a folder of checkpoints. It is only read, never written.
    Path(PathBuf),
    /// No other place.
    None,
}

/// The places in which to look for checkpoints.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Candidates<'a> {
    /// The run's own folder. It need not exist.
    pub folder: &'a Path,
    /// The other place.
    pub source: &'a Source,
    /// Whether to take the source even if the folder has a later checkpoint.
    pub source_only: bool,
    /// Files that are known to be unusable.
    pub(crate) unusable: &'a [Skipped],
    /// Whether to leave the tensors unverified. Whoever reads them compares their checksums on the way, and calls
    /// [`File::verify_rest`] afterwards.
    pub(crate) verify_later: bool,
}

impl<'a> Candidates<'a> {
    /// Looks in this folder alone.
    pub fn new(folder: &'a Path) -> Candidates<'a> {
        Candidates { folder, source: &Source::None, source_only: false, unusable: &[], verify_later: false }
    }

    /// Looks in another place too.
    #[must_use]
    pub fn with_source(self, source: &'a Source) -> Candidates<'a> {
        Candidates { source, ..self }
    }

    /// Takes the source even if the folder has a later checkpoint.
    #[must_use]
    pub fn with_source_only(self, source_only: bool) -> Candidates<'a> {
        Candidates { source_only, ..self }
    }

    /// Leaves the tensors' bytes unverified, and passes over files that were found damaged since.
    #[must_use]
    pub(crate) fn verifying_later(self, unusable: &'a [Skipped]) -> Candidates<'a> {
        Candidates { unusable, verify_later: true, ..self }
    }
}

/// The newest valid checkpoint.
#[derive(Debug)]
#[non_exhaustive]
pub struct Newest {
    /// The file.
    pub path: PathBuf,
    /// The open file.
    pub(crate) file: File,
    /// Its content. Tensors are read from the file on access.
    pub checkpoint: Checkpoint,
    /// Candidates that could not be used, newest first.
    pub skipped: Vec<Skipped>,
}

/// A candidate that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why it could not be used.
    pub reason: String,
}

impl Skipped {
    /// Takes the reason without the path, which is shown next to it.
    pub(crate) fn new(path: PathBuf, error: &dyn Error) -> Skipped {
        let text = chain(error);
        let name = format!("{}: ", path.display());
        let reason = text.strip_prefix(&name).unwrap_or(&text).to_owned();
        Skipped { path, reason }
    }
}

/// A missing checkpoint where there should be one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The configured source does not exist.
    #[error("{path}: the checkpoint (or folder of checkpoints) to resume from does not exist")]
    Missing {
        /// The source.
        path: PathBuf,
    },
    /// The source is a folder without checkpoints.
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
        /// The cause.
        source: io::Error,
    },
    /// No file is valid.
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

/// Finds the valid checkpoint with the highest global step, in the folder and the source. A best model is used only if
/// no other checkpoint is valid. None if there is no checkpoint at all and no source is set.
///
/// # Errors
/// The source is missing or empty, or all files are damaged.
pub fn find(storage: &dyn Storage, candidates: &Candidates<'_>) -> Result<Option<Newest>, SourceError> {
    let is_folder = |path: &Path| storage.metadata(path).map(|metadata| metadata.is_folder).ok();
    let mut files: Vec<PathBuf> = Vec::new();
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
    let mut skipped = candidates.unusable.to_vec();
    let mut opened = Vec::new();
    files.retain(|path| !candidates.unusable.iter().any(|unusable| unusable.path == *path));
    for path in files {
        match open(storage, &path) {
            Ok((file, checkpoint)) => opened.push((path, file, checkpoint)),
            Err(error) => skipped.push(Skipped::new(path, &error)),
        }
    }
    // Best models last, then by the position in the file. The sort is stable, so on ties the folder's own comes first.
    let is_best = |path: &Path| file_name(path) == Some(BEST_MODEL);
    opened.sort_by_key(|(path, _, checkpoint)| {
        (is_best(path), std::cmp::Reverse(checkpoint.position.global_step))
    });
    for (path, file, checkpoint) in opened {
        let verified = if candidates.verify_later { file.verify_values() } else { file.verify_at_once() };
        match verified {
            Ok(_) => return Ok(Some(Newest { path, file, checkpoint, skipped })),
            Err(error) => skipped.push(Skipped::new(path, &error)),
        }
    }
    if skipped.is_empty() { Ok(None) } else { Err(SourceError::NothingValid { skipped }) }
}

/// A file that cannot be used as a checkpoint.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is damaged, or not a `.pt` file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file is not a checkpoint of keepstep.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Opens a checkpoint and checks every checksum in it.
///
/// # Errors
/// The file is damaged, or not a checkpoint of keepstep.
pub fn load(path: &Path) -> Result<Checkpoint, OpenError> {
    let (file, checkpoint) = open(&Disk, path)?;
    file.verify_at_once()?;
    Ok(checkpoint)
}

/// Opens a file and reads its root, without checking the tensors' checksums.
pub(crate) fn open(storage: &dyn Storage, path: &Path) -> Result<(File, Checkpoint), OpenError> {
    let file = open_file(storage, path)?;
    let checkpoint = match Checkpoint::from_value(file.value()) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            // If the file is damaged, that is the better reason to report.
            file.verify()?;
            return Err(error.into());
        }
    };
    Ok((file, checkpoint))
}

/// Opens a `.pt` file that need not be a checkpoint.
pub(super) fn open_file(storage: &dyn Storage, path: &Path) -> Result<File, ReadError> {
    let source = storage.open(path).map_err(|error| ReadError::io(path, error))?;
    File::from_source(path, source)
}

/// Collects the checkpoints of a folder, and its best model.
fn collect(storage: &dyn Storage, folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let unreadable = |source| SourceError::Unreadable { path: folder.to_path_buf(), source };
    let is_candidate = |path: &PathBuf| {
        file_name(path).is_some_and(|name| name == BEST_MODEL || Name::parse(name).is_some())
    };
    files.extend(storage.list(folder).map_err(unreadable)?.into_iter().filter(is_candidate));
    Ok(())
}

/// Reads the global step in a file, if the file can be opened.
pub(super) fn stated_global_step(storage: &dyn Storage, path: &Path) -> Option<u64> {
    let file = open_file(storage, path).ok()?;
    let step = file.value().as_dict()?.get("global_step").and_then(Value::as_int)?;
    u64::try_from(step).ok()
}

/// Writes an error and its causes on one line.
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
