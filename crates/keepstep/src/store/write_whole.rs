//! Atomic writes: a file gets its name only when it is complete.

use super::{folder, operation};
use std::io::{self, Write};
use std::path::Path;
use tempfile::NamedTempFile;

/// Writes a file durably: writes a temporary file in the same folder, syncs it, renames it, and syncs the folder.
///
/// The file's permissions follow the umask.
///
/// # Errors
/// The operating system's error, with the operation that failed. An older file of that name is untouched.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = temporary_file(parent)?;
    operation::name("writing", path, file.write_all(bytes))?;
    operation::name("fsync of", path, file.as_file().sync_all())?;
    operation::name("renaming", path, file.persist(path).map_err(|error| error.error))?;
    operation::name("fsync of", parent, folder::sync(parent))
}

/// Creates a temporary file with permissions that follow the umask: others can read the file that it becomes. (By
/// default the `tempfile` crate creates files that only their owner can read.)
///
/// # Errors
/// The operating system's error.
pub fn temporary_file(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    operation::name("making a file in", folder, builder.tempfile_in(folder))
}
