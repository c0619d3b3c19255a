//! From a run's folder to a bundle.

use super::{MANIFEST, Manifest, SideFolder, small_files};
use crate::failure::Failure;
use keepstep::Checkpoint;
use keepstep::journal::JOURNAL;
use keepstep::name::BEST_MODEL;
use keepstep::store::{Candidates, Disk, chain, find, load};
use keepstep_text::tokenizer::TOKENIZER_FILE;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A bundle in a temporary folder next to the run's.
#[derive(Debug)]
pub(crate) struct Staged {
    _side: SideFolder,
    /// The folder with the bundle's files and nothing else.
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Manifest,
    /// What was left out, for people.
    pub(crate) notes: Vec<String>,
}

/// Collects the newest valid checkpoint of a run, the best one, the journal and the tokenizer; with `best_only`, the best
/// checkpoint and the tokenizer. Every checksum is verified. Checkpoints are hard links, and rotation may unlink the
/// originals meanwhile.
pub(crate) fn stage(run: &Path, best_only: bool) -> Result<Staged, Failure> {
    if !run.is_dir() {
        return Err(Failure::new(
            1,
            format!("{}: this is not a folder; give a run's output_dir", run.display()),
        ));
    }
    let side = SideFolder::new(run, "push")?;
    let folder = side.make("bundle")?;
    let mut notes = Vec::new();
    let (name, newest) =
        if best_only { link_best_only(run, &folder)? } else { link_newest(run, &folder, &mut notes)? };
    let mut names = vec![name.clone()];
    if name != BEST_MODEL && link(&run.join(BEST_MODEL), &folder.join(BEST_MODEL))? {
        match load(&folder.join(BEST_MODEL)) {
            Ok(best) if best.is_same_run(&newest) => names.push(BEST_MODEL.to_owned()),
            Ok(_) => notes.push(format!("{BEST_MODEL} is left out: it belongs to another run")),
            Err(error) => notes.push(format!("{BEST_MODEL} is left out: {}", chain(&error))),
        }
    }
    for file in small_files().filter(|file| !best_only || *file == TOKENIZER_FILE) {
        if copy(&run.join(file), &folder.join(file))? {
            names.push(file.to_owned());
        }
    }
    // Nothing but what the manifest names is given away.
    if !names.iter().any(|name| name == BEST_MODEL) {
        let _ = std::fs::remove_file(folder.join(BEST_MODEL));
    }
    let manifest = Manifest::of(&folder, &name, &newest, &names)?;
    let path = folder.join(MANIFEST);
    let text = serde_json::to_string_pretty(&manifest).map_err(|error| Failure::of(1, &error))?;
    std::fs::write(&path, text + "\n").map_err(|error| Failure::at(&path, &error))?;
    Ok(Staged { _side: side, folder, manifest, notes })
}

fn link_best_only(run: &Path, folder: &Path) -> Result<(String, Checkpoint), Failure> {
    let path = folder.join(BEST_MODEL);
    if !link(&run.join(BEST_MODEL), &path)? {
        let message =
            format!("{}: this folder has no {BEST_MODEL}; it comes with the first evaluation", run.display());
        return Err(Failure::new(1, message));
    }
    let best = load(&path)
        .map_err(|error| Failure::about(1, &run.join(BEST_MODEL).display().to_string(), &error))?;
    Ok((BEST_MODEL.to_owned(), best))
}

fn link_newest(run: &Path, folder: &Path, notes: &mut Vec<String>) -> Result<(String, Checkpoint), Failure> {
    // A session that trains may rotate the newest away between the search and the link. Each try sees a newer one.
    for _ in 0..5 {
        let candidates = Candidates::new(run);
        let found = find(&Disk, &candidates).map_err(|error| Failure::of(1, &error))?;
        let Some(found) = found else {
            let message =
                format!("{}: this folder has no checkpoint; give a run's output_dir", run.display());
            return Err(Failure::new(1, message));
        };
        let name = found.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = folder.join(&name);
        if !link(&found.path, &path)? {
            continue;
        }
        // The linked file is verified, as it may be another one of this name.
        let checkpoint =
            load(&path).map_err(|error| Failure::about(1, &found.path.display().to_string(), &error))?;
        for skipped in &found.skipped {
            notes.push(format!("{} is damaged and left out: {}", skipped.path.display(), skipped.reason));
        }
        return Ok((name, checkpoint));
    }
    Err(Failure::new(
        1,
        format!("{}: the newest checkpoint is replaced faster than it can be linked", run.display()),
    ))
}

/// Links a file, or copies it where the file system has no links. False if it does not exist.
fn link(from: &Path, to: &Path) -> Result<bool, Failure> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(_) => match std::fs::copy(from, to) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Failure::at(from, &error)),
        },
    }
}

/// Copies a file that may grow meanwhile. False if it does not exist.
fn copy(from: &Path, to: &Path) -> Result<bool, Failure> {
    let mut bytes = match std::fs::read(from) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Failure::at(from, &error)),
    };
    if from.file_name().is_some_and(|name| name == JOURNAL) {
        // A last line without its end is still being written.
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
    }
    std::fs::write(to, bytes).map_err(|error| Failure::at(to, &error))?;
    Ok(true)
}
