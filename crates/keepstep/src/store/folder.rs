//! Folders that a crash does not take away.

use super::{Storage, operation};
use std::fs::File;
use std::io;
use std::path::Path;

/// Makes a folder and its parents, each durable before anything is put into it.
///
/// # Durability
/// A folder is an entry of its parent, which has to be synced: a file is lost with its folder, however durable itself.
///
/// # Errors
/// A folder cannot be made, or its parent not synced.
pub(super) fn make(storage: &dyn Storage, folder: &Path) -> io::Result<()> {
    let parent = match folder.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    if storage.metadata(folder).is_ok() {
        // Who made it may have been killed before this. A parent that may not be read was not made by us.
        let _ = storage.sync_folder(parent);
        return Ok(());
    }
    if parent != Path::new(".") {
        make(storage, parent)?;
    }
    storage.create_folder(folder)?;
    storage.sync_folder(parent)
}

/// Makes the names in a folder durable, where its file system can do that.
///
/// # Durability
/// Some network and FUSE file systems have no fsync of folders. What a loss of power leaves there is up to them.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if operation::is_missing(&error) => Ok(()),
        result => result,
    }
}
