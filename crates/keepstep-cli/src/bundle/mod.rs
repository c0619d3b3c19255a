//! The files of a run that a resume needs, in one folder: what is given to a place that takes whole folders, and what
//! comes back from it.

mod contents;
mod install;
mod manifest;
mod stage;

pub(crate) use contents::{Contents, ContentsError, find_folder};
pub(crate) use install::{Installed, install, present, refuse_other};
pub(crate) use manifest::{MANIFEST, Manifest, ManifestError};
pub(crate) use stage::{Staged, stage};

use crate::failure::Failure;
use keepstep::journal::JOURNAL;
use keepstep::name::{BEST_MODEL, COMPANION_FILES, Name};
use keepstep::run::STATUS_FILE;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Whether a file of this name is a small one that travels with a run's checkpoints.
fn is_small(name: &str) -> bool {
    small_files().any(|small| small == name)
}

fn small_files() -> impl Iterator<Item = &'static str> {
    COMPANION_FILES.into_iter().chain([JOURNAL, STATUS_FILE])
}

/// Whether a file of this name is a checkpoint of a run.
fn is_checkpoint(name: &str) -> bool {
    name == BEST_MODEL || Name::parse(name).is_some()
}

/// Whether a file of this name is one that a bundle holds, apart from its manifest.
pub(crate) fn is_file_of_run(name: &str) -> bool {
    is_checkpoint(name) || is_small(name)
}

/// A hidden folder next to `path`, on the same file system if that can be written to. It goes away with the value, and the next call removes what
/// a killed process has left.
#[derive(Debug)]
pub(crate) struct SideFolder {
    folder: tempfile::TempDir,
    /// Held as long as the folder is in use.
    _lock: File,
}

impl SideFolder {
    /// Makes the folder. `purpose` is part of its name.
    pub(crate) fn new(path: &Path, purpose: &str) -> Result<SideFolder, Failure> {
        let whole = std::path::absolute(path).map_err(|error| Failure::at(path, &error))?;
        let parent = whole.parent().unwrap_or(Path::new("/")).to_path_buf();
        let failed = |error: io::Error| Failure::at(&parent, &error);
        if !path.exists() {
            std::fs::create_dir_all(&parent).map_err(failed)?;
        }
        let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let prefix = format!(".{name}.{purpose}-");
        sweep(&parent, &prefix);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        let folder = match builder.tempdir_in(&parent) {
            // A run below a read-only input is pushed from copies.
            Err(_) if path.exists() => builder.tempdir(),
            folder => folder,
        };
        let folder = folder.map_err(failed)?;
        let lock = File::open(folder.path()).map_err(failed)?;
        // Without locks, another process may take the folder for one that was left.
        let _ = lock.try_lock();
        Ok(SideFolder { folder, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes an empty folder inside.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path().join(name);
        std::fs::create_dir(&path).map_err(|error| Failure::at(&path, &error))?;
        Ok(path)
    }
}

/// Removes folders whose process has ended.
fn sweep(parent: &Path, prefix: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(prefix);
        if is_ours && File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
