//! From a verified download to a run's folder.

use super::{Contents, SideFolder, is_small};
use crate::checkpoints::load_path;
use crate::failure::Failure;
use keepstep::Checkpoint;
use keepstep::journal::{JOURNAL, carry};
use keepstep::name::{BEST_MODEL, Name};
use keepstep::store::{Disk, Store};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What happened to the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installed {
    /// The folder did not exist, or was empty.
    Whole,
    /// The folder had the run at an earlier position.
    Added,
    /// The folder has the run at this position or a later one. Nothing was changed.
    Nothing {
        /// The folder's global step.
        global_step: u64,
    },
}

/// The newest checkpoint of a folder. None if it does not exist or is empty.
pub(crate) fn present(dir: &Path) -> Result<Option<Checkpoint>, Failure> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::at(dir, &error)),
    };
    if entries.next().is_none() {
        return Ok(None);
    }
    let candidates = keepstep::store::Candidates::new(dir);
    match keepstep::store::find(&Disk, &candidates).map_err(|error| Failure::of(1, &error))? {
        Some(found) => Ok(Some(found.checkpoint)),
        None => Err(Failure::new(
            1,
            format!("{}: this folder has other files and no checkpoint; choose an empty one", dir.display()),
        )),
    }
}

/// Refuses a folder that holds another run.
pub(crate) fn refuse_other(dir: &Path, there: &Checkpoint, run: &str, place: &str) -> Result<(), Failure> {
    let own = there.run_id();
    if own == run {
        return Ok(());
    }
    Err(Failure::new(
        1,
        format!(
            "{}: this folder holds the run {own}, and {place} holds the run {run}; choose another folder",
            dir.display()
        ),
    ))
}

/// Moves verified files into a run's folder.
///
/// # Durability
/// A folder that does not exist appears whole. In one that exists, each file appears whole, and the newest checkpoint
/// comes last: a crash leaves the old position or the new one.
pub(crate) fn install(
    contents: &Contents,
    side: &SideFolder,
    dir: &Path,
    place: &str,
) -> Result<Installed, Failure> {
    for name in &contents.names {
        let path = contents.folder.join(name);
        File::open(&path).and_then(|file| file.sync_all()).map_err(|error| Failure::at(&path, &error))?;
    }
    let Some(there) = present(dir)? else {
        return install_whole(contents, side, dir);
    };
    refuse_other(dir, &there, &contents.newest.run_id(), place)?;
    if there.position.global_step >= contents.newest.position.global_step {
        return Ok(Installed::Nothing { global_step: there.position.global_step });
    }
    // Its lock keeps out a session that trains into the folder.
    let _store = Store::open(dir, Arc::new(Disk)).map_err(|error| Failure::of(1, &error))?;
    carry(&contents.folder, dir).map_err(|error| Failure::at(&dir.join(JOURNAL), &error))?;
    let mut names: Vec<&String> = contents.names.iter().filter(|name| *name != JOURNAL).collect();
    let rank = |name: &str| match Name::parse(name) {
        Some(name) => 2 + name.global_step,
        None => u64::from(name == BEST_MODEL),
    };
    names.sort_by_key(|name| rank(name));
    for name in names {
        let (from, to) = (contents.folder.join(name), dir.join(name));
        let is_replaced = name == BEST_MODEL || is_small(name);
        if is_replaced || load_path(&to).is_err() {
            move_file(&from, &to)?;
        }
    }
    let _ = File::open(dir).and_then(|folder| folder.sync_all());
    Ok(Installed::Added)
}

fn install_whole(contents: &Contents, side: &SideFolder, dir: &Path) -> Result<Installed, Failure> {
    let incoming = side.make("incoming")?;
    for name in &contents.names {
        move_file(&contents.folder.join(name), &incoming.join(name))?;
    }
    let failed = |error: io::Error| Failure::at(dir, &error);
    let _ = File::open(&incoming).and_then(|folder| folder.sync_all());
    std::fs::rename(&incoming, dir).map_err(failed)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(parent).and_then(|folder| folder.sync_all());
    Ok(Installed::Whole)
}

fn move_file(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::rename(from, to).map_err(|error| Failure::at(to, &error))
}
