//! What a downloaded folder holds.

use super::manifest::{Entry, ManifestError};
use super::{MANIFEST, Manifest, is_checkpoint, is_small};
use crate::failure::Failure;
use keepstep::Checkpoint;
use keepstep::name::BEST_MODEL;
use keepstep::store::{SUPERSEDED, chain, load};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How deep a run is looked for.
const MAX_DEPTH: usize = 8;

/// The files of one run, each verified.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) folder: PathBuf,
    /// The names of the files to take.
    pub(crate) names: Vec<String>,
    /// The checkpoint with the highest global step.
    pub(crate) newest: Checkpoint,
    pub(crate) newest_name: String,
    /// What was left out, for people.
    pub(crate) notes: Vec<String>,
}

/// Why a folder's files cannot be taken.
#[derive(Debug)]
pub(crate) enum ContentsError {
    /// The files are not those that were pushed: what differs, in words.
    Damaged(String),
    /// Another reason.
    Other(Failure),
}

impl From<Failure> for ContentsError {
    fn from(failure: Failure) -> ContentsError {
        ContentsError::Other(failure)
    }
}

/// Finds the one folder below `root` that has a run's checkpoints; `wanted` names it where there are several.
pub(crate) fn find_folder(root: &Path, place: &str, wanted: Option<&str>) -> Result<PathBuf, Failure> {
    let mut found = Vec::new();
    search(root, MAX_DEPTH, &mut found)?;
    let relative = |path: &PathBuf| path.strip_prefix(root).unwrap_or(path).display().to_string();
    if let Some(wanted) = wanted {
        let wanted = wanted.trim_matches('/');
        found.retain(|path| relative(path) == wanted);
    }
    match (found.as_slice(), wanted) {
        ([one], _) => Ok(one.clone()),
        ([], None) => Err(Failure::new(1, format!("{place}: it has no checkpoint of keepstep"))),
        ([], Some(wanted)) => {
            Err(Failure::new(1, format!("{place}: its folder {wanted} has no checkpoint of keepstep")))
        }
        (several, _) => {
            let list: Vec<String> = several.iter().map(relative).map(|name| format!("#{name}")).collect();
            Err(Failure::new(
                1,
                format!(
                    "{place}: it has more than one run; put one of these behind the URL: {}",
                    list.join(", ")
                ),
            ))
        }
    }
}

fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| Failure::at(folder, &error);
    let (mut folders, mut is_run) = (BTreeSet::new(), false);
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Symbolic links are not followed: they could lead out of the download.
        let kind = entry.file_type().map_err(unreadable)?;
        if kind.is_dir() && depth > 0 && !name.starts_with('.') && name != SUPERSEDED {
            folders.insert(entry.path());
        }
        is_run |= kind.is_file() && (is_checkpoint(&name) || name == MANIFEST);
    }
    if is_run {
        found.push(folder.to_path_buf());
    }
    folders.iter().try_for_each(|inner| search(inner, depth - 1, found))
}

impl Contents {
    /// Verifies a folder: against its manifest where it has one, and every checksum inside the checkpoints.
    pub(crate) fn verify(folder: &Path, place: &str) -> Result<Contents, ContentsError> {
        let damaged = ContentsError::Damaged;
        let path = folder.join(MANIFEST);
        let manifest = match std::fs::read_to_string(&path) {
            Ok(text) => Some(Manifest::parse(&text).map_err(|error| match error {
                ManifestError::Damaged(reason) => damaged(reason),
                ManifestError::Newer(reason) => Failure::new(1, format!("{place}: {reason}")).into(),
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(damaged(format!("{MANIFEST}: {error}"))),
        };
        let names = match &manifest {
            Some(manifest) => compare(folder, manifest).map_err(damaged)?,
            None => names_in(folder)?,
        };
        let (mut kept, mut notes, mut checkpoints) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            if !is_checkpoint(&name) {
                kept.push(name);
                continue;
            }
            match load(&folder.join(&name)) {
                Ok(checkpoint) => {
                    kept.push(name.clone());
                    checkpoints.push((name, checkpoint));
                }
                Err(error) if manifest.is_some() => {
                    return Err(damaged(format!("{name}: {}", chain(&error))));
                }
                Err(error) => notes.push(format!("{name} is damaged and left out: {}", chain(&error))),
            }
        }
        // The best model is the newest only if there is nothing else.
        checkpoints.sort_by_key(|(name, checkpoint)| (name != BEST_MODEL, checkpoint.position.global_step));
        let Some((newest_name, newest)) = checkpoints.pop() else {
            return Err(damaged(format!("it has no valid checkpoint; {}", notes.join("; "))));
        };
        if let Some(manifest) = manifest.filter(|manifest| manifest.run != newest.run_id()) {
            return Err(damaged(format!("{newest_name} does not belong to the run {}", manifest.run)));
        }
        if let Some((name, _)) = checkpoints.iter().find(|(_, other)| !other.is_same_run(&newest)) {
            let message = format!("{place}: {name} and {newest_name} belong to two runs");
            return Err(Failure::new(1, message).into());
        }
        Ok(Contents { folder: folder.to_path_buf(), names: kept, newest, newest_name, notes })
    }
}

/// Compares a folder with its manifest. Gives the names of the files to take.
fn compare(folder: &Path, manifest: &Manifest) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for (name, expected) in &manifest.files {
        if !is_checkpoint(name) && !is_small(name) {
            return Err(format!("{MANIFEST} names `{name}`, which is no file of a run"));
        }
        let found = Entry::of(&folder.join(name)).map_err(|failure| failure.to_string())?;
        if found != *expected {
            let sizes = format!("{} bytes, expected {}", found.size_bytes, expected.size_bytes);
            return Err(format!("{name} differs from what was pushed ({sizes})"));
        }
        names.push(name.clone());
    }
    Ok(names)
}

fn names_in(folder: &Path) -> Result<Vec<String>, Failure> {
    let unreadable = |error: std::io::Error| Failure::at(folder, &error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_wanted = is_checkpoint(&name) || is_small(&name);
        if is_wanted && entry.file_type().map_err(unreadable)?.is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
