//! The storage that a store uses. It repeats operations that a signal interrupted, names operations that fail, and does
//! without fsync of folders if the file system does not have it.

use super::operation::{is_missing, name};
use super::{Lock, Metadata, Storage, StorageFile};
use keepstep_pt::ReadAt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Number of attempts before an interruption counts as a failure.
const ATTEMPTS: u32 = 100;

#[derive(Debug)]
pub(super) struct RetryInterrupted {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) missing: Missing,
}

/// Operations that the file system does not have.
#[derive(Debug, Clone, Default)]
pub(super) struct Missing {
    folder_sync: Arc<OnceLock<String>>,
}

impl Missing {
    /// Returns the file system's error for syncing a folder, if it cannot do that.
    pub(super) fn folder_sync(&self) -> Option<&str> {
        self.folder_sync.get().map(String::as_str)
    }
}

struct RetryInterruptedFile {
    file: Box<dyn StorageFile>,
    path: PathBuf,
}

/// Repeats an operation while it is interrupted.
fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..ATTEMPTS {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
    // Change the error's kind: callers repeat interrupted operations, and would do so forever.
    attempt().map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => io::Error::other(error),
        _ => error,
    })
}

impl Write for RetryInterruptedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        name("writing", &self.path, retry(|| self.file.write(bytes)))
    }
    fn flush(&mut self) -> io::Result<()> {
        name("writing", &self.path, retry(|| self.file.flush()))
    }
}

#[deny(clippy::missing_trait_methods)]
impl StorageFile for RetryInterruptedFile {
    fn sync(&mut self) -> io::Result<()> {
        name("fsync of", &self.path, retry(|| self.file.sync()))
    }
}

#[deny(clippy::missing_trait_methods)]
impl Storage for RetryInterrupted {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        name("making the folder", path, retry(|| self.storage.create_folder(path)))
    }
    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn StorageFile>> {
        let file = name("creating", path, retry(|| self.storage.create(path, len_bytes)))?;
        Ok(Box::new(RetryInterruptedFile { file, path: path.to_path_buf() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        name("renaming", from, retry(|| self.storage.rename(from, to)))
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        name("linking", from, retry(|| self.storage.link(from, to)))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        name("removing", path, retry(|| self.storage.remove(path)))
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        match retry(|| self.storage.sync_folder(path)) {
            Err(error) if is_missing(&error) => {
                let _ = self.missing.folder_sync.set(error.to_string());
                Ok(())
            }
            result => name("fsync of", path, result),
        }
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        name("listing", path, retry(|| self.storage.list(path)))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        retry(|| self.storage.open(path))
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        retry(|| self.storage.metadata(path))
    }
    fn lock(&self, folder: &Path) -> io::Result<Lock> {
        retry(|| self.storage.lock(folder))
    }
    fn free_bytes(&self, folder: &Path) -> Option<u64> {
        self.storage.free_bytes(folder)
    }
    fn free_files(&self, folder: &Path) -> Option<u64> {
        self.storage.free_files(folder)
    }
    fn is_fuse(&self, folder: &Path) -> bool {
        self.storage.is_fuse(folder)
    }
}
