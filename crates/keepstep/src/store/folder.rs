//! Durable folders.

use super::retry_interrupted::{Missing, RetryInterrupted};
use super::{Disk, Storage, operation};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Creates a folder and its parents. Each is durable before anything is written into it.
///
/// # Durability
/// A folder is an entry of its parent, so the parent must be synced. A durable file is lost if its folder is lost.
///
/// # Errors
/// A folder cannot be created, or its parent cannot be synced.
pub(super) fn make(storage: &dyn Storage, folder: &Path) -> io::Result<()> {
    let parent = match folder.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    if storage.metadata(folder).is_ok() {
        // The process that created it may have been killed before this sync. If the parent cannot be read, it was not
        // created by keepstep, so an error here does not matter.
        let _ = storage.sync_folder(parent);
        return Ok(());
    }
    if parent != Path::new(".") {
        make(storage, parent)?;
    }
    storage.create_folder(folder)?;
    storage.sync_folder(parent)
}

/// Creates a folder on the disk and its parents, if they are missing.
///
/// # Durability
/// The folder survives a loss of power, if its file system can sync folders.
///
/// # Errors
/// A folder cannot be created, or its parent cannot be synced.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    make(&RetryInterrupted { storage: Arc::new(Disk), missing: Missing::default() }, folder)
}

/// Makes the names in a folder durable, if its file system can do that.
///
/// # Durability
/// Some network and FUSE file systems cannot sync folders. What survives a loss of power there depends on them.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if operation::is_missing(&error) => Ok(()),
        result => result,
    }
}
