//! The disk, with code of a test before its operations.

use crate::store::{Disk, Lock, Metadata, Storage, StorageFile};
use keepstep_pt::ReadAt;
use std::fmt::Debug;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a test changes about the disk. Every method defaults to the disk's own behaviour.
pub trait Hooks: Debug + Clone + Send + Sync + 'static {
    /// Runs before an operation that changes, lists or opens something.
    ///
    /// # Errors
    /// The operation is not done and fails with this error.
    fn before(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Runs before a new file is made, after [`before`](Hooks::before).
    ///
    /// # Errors
    /// The file is not made.
    fn before_create(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Runs before a file is renamed, and before [`before`](Hooks::before).
    fn before_rename(&self, _from: &Path) {}

    /// Runs before a folder is synced, after [`before`](Hooks::before).
    ///
    /// # Errors
    /// The folder is not synced.
    fn before_folder_sync(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Writes to a file.
    ///
    /// # Errors
    /// The write fails.
    fn write(&self, file: &mut dyn StorageFile, _path: &Path, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }

    /// Syncs a file.
    ///
    /// # Errors
    /// The sync fails.
    fn sync(&self, file: &mut dyn StorageFile, _path: &Path) -> io::Result<()> {
        file.sync()
    }

    /// Reports how many more files the file system can hold.
    fn free_files(&self, folder: &Path) -> Option<u64> {
        Disk.free_files(folder)
    }

    /// Reports whether the file system is FUSE.
    fn is_fuse(&self, folder: &Path) -> bool {
        Disk.is_fuse(folder)
    }
}

/// The disk with hooks: the only wrapper around a storage that tests need.
#[derive(Debug, Clone)]
pub struct Hooked<H>(pub H);

struct HookedFile<H> {
    file: Box<dyn StorageFile>,
    path: PathBuf,
    hooks: H,
}

impl<H: Hooks> Write for HookedFile<H> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hooks.write(&mut *self.file, &self.path, bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[deny(clippy::missing_trait_methods)]
impl<H: Hooks> StorageFile for HookedFile<H> {
    fn sync(&mut self) -> io::Result<()> {
        self.hooks.sync(&mut *self.file, &self.path)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<H: Hooks> Storage for Hooked<H> {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.0.before(path)?;
        Disk.create_folder(path)
    }
    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn StorageFile>> {
        self.0.before(path)?;
        self.0.before_create(path)?;
        let file = Disk.create(path, len_bytes)?;
        Ok(Box::new(HookedFile { file, path: path.to_path_buf(), hooks: self.0.clone() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.before_rename(from);
        self.0.before(from)?;
        Disk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.before(from)?;
        Disk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.before(path)?;
        Disk.remove(path)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.0.before(path)?;
        self.0.before_folder_sync(path)?;
        Disk.sync_folder(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.before(path)?;
        Disk.list(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        self.0.before(path)?;
        Disk.open(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        Disk.metadata(path)
    }
    fn lock(&self, folder: &Path) -> io::Result<Lock> {
        Disk.lock(folder)
    }
    fn free_bytes(&self, folder: &Path) -> Option<u64> {
        Disk.free_bytes(folder)
    }
    fn free_files(&self, folder: &Path) -> Option<u64> {
        self.0.free_files(folder)
    }
    fn is_fuse(&self, folder: &Path) -> bool {
        self.0.is_fuse(folder)
    }
}
