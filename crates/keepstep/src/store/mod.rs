//! A folder of checkpoints: durable publishing, rotation, the best model, and a lock that keeps a second writer out.
//!
//! # Durability
//! A file gets its final name only after its content is durable, and the name is durable before publishing returns.
//! Nothing older is removed before what replaces it has been read back and verified. A process that dies at any
//! instant leaves the old files, or the old files and the new one. It may also leave a temporary file, which the next
//! call of [`Store::open`] removes.

mod discovery;
mod disk_file;
mod error;
#[cfg(test)]
mod faults;
mod folder;
mod lock;
mod missing_operation;
mod operation;
mod retry_interrupted;
mod storage;
mod write_whole;

pub(crate) use discovery::open;
pub use discovery::{Candidates, Newest, OpenError, Skipped, Source, SourceError, chain, find, load};
pub use error::StoreError;
pub use folder::make_folder;
pub use lock::Lock;
pub use missing_operation::MissingOperation;
pub use storage::{Disk, Metadata, Storage, StorageFile, preallocate};
pub use write_whole::{temporary_file, write_whole};

use crate::cadence::Cadence;
use crate::name::{BEST_MODEL, Name};
use keepstep_pt::{Archive, ReadAt};
use retry_interrupted::{Missing, RetryInterrupted};
use std::collections::BTreeMap;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder to which a rewind moves later checkpoints.
pub const SUPERSEDED: &str = "superseded";

/// A folder that this process alone writes to.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    storage: Arc<dyn Storage>,
    lock: Lock,
    /// Operations that the file system does not have, which the store does without.
    missing: Missing,
    /// Files that this process has read and verified, with the metadata that they had then.
    verified: BTreeMap<PathBuf, Metadata>,
    /// Counts failed writes. Each later write gets another temporary file, so no file is written again after it failed.
    failures: u64,
}

/// Which scheduled checkpoints a folder keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Number of the newest checkpoints to keep, at least 1.
    pub max_checkpoints: usize,
    /// Decides which checkpoints are scheduled.
    pub cadence: Cadence,
    /// The global step at which the run ends.
    pub end: u64,
}

impl Retention {
    /// Keeps the newest `max_checkpoints` of a run that ends at the global step `end`.
    pub fn new(max_checkpoints: usize, cadence: Cadence, end: u64) -> Retention {
        Retention { max_checkpoints, cadence, end }
    }

    /// Reports whether a checkpoint with this name is scheduled.
    pub fn is_scheduled(&self, name: &Name) -> bool {
        self.cadence.is_scheduled(name, self.end)
    }
}

/// Free space on the disk, and the space that checkpoints take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Room {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes of the checkpoints that exist.
    pub stored_bytes: u64,
    /// Files that can still be created (free inodes), where the file system has such a limit.
    pub free_files: Option<u64>,
}

impl Room {
    /// States the room, for storages other than the disk.
    pub fn new(free_bytes: u64, stored_bytes: u64, free_files: Option<u64>) -> Room {
        Room { free_bytes, stored_bytes, free_files }
    }

    /// Measures the free space for a folder on the disk, and the space that its checkpoints take. The folder need not
    /// exist. None if the system does not report free space.
    pub fn of(folder: &Path) -> Option<Room> {
        Room::on(&Disk, folder)
    }

    pub(crate) fn on(storage: &dyn Storage, folder: &Path) -> Option<Room> {
        // The ancestors of a relative path end at the current directory.
        let there = folder.ancestors().find(|path| storage.metadata(path).is_ok()).unwrap_or(Path::new("."));
        let free_bytes = storage.free_bytes(there)?;
        let checkpoints = storage.list(folder).unwrap_or_default();
        let is_checkpoint = |path: &&PathBuf| {
            file_name(path).is_some_and(|name| name == BEST_MODEL || Name::parse(name).is_some())
        };
        let len = |path: &PathBuf| storage.metadata(path).map_or(0, |metadata| metadata.len_bytes);
        let stored_bytes = checkpoints.iter().filter(is_checkpoint).map(len).sum();
        Some(Room { free_bytes, stored_bytes, free_files: storage.free_files(there) })
    }
}

impl Store {
    /// Opens the folder, creates it if it does not exist, and removes files that a killed process left half written.
    ///
    /// # Errors
    /// Another process writes to the folder, or it cannot be used.
    pub fn open(folder: &Path, storage: Arc<dyn Storage>) -> Result<Store, StoreError> {
        let unusable = |source| StoreError::Folder { folder: folder.to_path_buf(), source };
        let missing = Missing::default();
        let storage: Arc<dyn Storage> = Arc::new(RetryInterrupted { storage, missing: missing.clone() });
        folder::make(&*storage, folder).map_err(unusable)?;
        let lock = storage.lock(folder).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked { folder: folder.to_path_buf() },
            _ => unusable(source),
        })?;
        for path in storage.list(folder).map_err(unusable)? {
            if is_temporary(&path) {
                storage.remove(&path).map_err(|source| StoreError::Remove { path, source })?;
            }
        }
        // A killed process may have left names unsynced. Sync them first: a file that it moved aside would be lost if a
        // new file took its name before that.
        let superseded = folder.join(SUPERSEDED);
        if storage.metadata(&superseded).is_ok() {
            storage.sync_folder(&superseded).map_err(unusable)?;
        }
        storage.sync_folder(folder).map_err(unusable)?;
        Ok(Store {
            folder: folder.to_path_buf(),
            storage,
            lock,
            missing,
            verified: BTreeMap::new(),
            failures: 0,
        })
    }

    /// Lists operations that this folder's file system does not have, with the guarantees that are missing for it.
    pub fn missing_operations(&self) -> Vec<MissingOperation> {
        let folder = || self.folder.clone();
        let lock = self
            .lock
            .missing()
            .map(|reason| MissingOperation::Lock { folder: folder(), reason: reason.to_owned() });
        let sync = self
            .missing
            .folder_sync()
            .map(|reason| MissingOperation::FolderSync { folder: folder(), reason: reason.to_owned() });
        let fuse =
            self.storage.is_fuse(&self.folder).then(|| MissingOperation::PromptSync { folder: folder() });
        lock.into_iter().chain(sync).chain(fuse).collect()
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Measures the space for this folder.
    pub fn room(&self) -> Option<Room> {
        Room::on(&*self.storage, &self.folder)
    }

    /// Publishes an archive durably under a name, and reads it back.
    ///
    /// # Durability
    /// When this returns, the file survives a loss of power, and every checksum in it has been verified.
    ///
    /// # Errors
    /// The file could not be written, or does not read back. A failed write leaves an older file of that name
    /// untouched.
    pub fn publish(&mut self, name: &str, archive: &Archive) -> Result<PathBuf, StoreError> {
        let len_bytes = archive.len_bytes();
        self.publish_with(name, len_bytes, |file| archive.write_to(file))
    }

    /// Publishes a copy of a file.
    ///
    /// # Errors
    /// See [`Store::publish`].
    pub fn publish_copy(&mut self, name: &str, from: &Path) -> Result<PathBuf, StoreError> {
        let to = self.folder.join(name);
        let unreadable = |source| StoreError::Write { path: to.clone(), len_bytes: 0, source };
        let source = self.storage.open(from).map_err(unreadable)?;
        let len_bytes = source.len_bytes().map_err(unreadable)?;
        self.publish_with(name, len_bytes, |file| copy(&*source, len_bytes, file))
    }

    /// Gives the content of `existing` a second name, or copies it if the file system has no hard links.
    ///
    /// # Errors
    /// See [`Store::publish`].
    pub fn publish_link(&mut self, name: &str, existing: &str) -> Result<PathBuf, StoreError> {
        let (from, path) = (self.folder.join(existing), self.folder.join(name));
        let temporary = self.temporary(name);
        let _ = self.storage.remove(&temporary);
        if self.storage.link(&from, &temporary).is_err() {
            return self.publish_copy(name, &from);
        }
        let known = self.verified.get(&from).copied().filter(|_| self.is_verified(&from));
        let moved = self.put_in_place(&temporary, &path);
        // Renaming a file to another name of the same file does nothing, so remove the first name explicitly.
        let _ = self.storage.remove(&temporary);
        moved.map_err(|source| StoreError::Write { path: path.clone(), len_bytes: 0, source })?;
        // Both names are one file, so it need not be read back twice.
        if let Some(known) = known.filter(|known| self.stamp(&path) == Some(*known)) {
            self.verified.insert(path.clone(), known);
        }
        self.verify(&path)?;
        Ok(path)
    }

    fn publish_with(
        &mut self,
        name: &str,
        len_bytes: u64,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<PathBuf, StoreError> {
        let (path, temporary) = (self.folder.join(name), self.temporary(name));
        if let Err(source) = self.write(&temporary, len_bytes, write) {
            return Err(self.failed(&temporary, StoreError::Write { path, len_bytes, source }));
        }
        // The rename removes an existing file of that name. Read the new file back before that.
        let replaces = self.stamp(&path).is_some();
        if replaces && let Err(StoreError::ReadBack { source, .. }) = self.verify(&temporary) {
            return Err(self.failed(&temporary, StoreError::ReadBack { path, source }));
        }
        let known = self.verified.remove(&temporary);
        if let Err(source) = self.put_in_place(&temporary, &path) {
            return Err(self.failed(&temporary, StoreError::Write { path, len_bytes, source }));
        }
        self.verified.remove(&path);
        if let Some(known) = known.filter(|known| self.stamp(&path) == Some(*known)) {
            self.verified.insert(path.clone(), known);
        }
        self.verify(&path)?;
        Ok(path)
    }

    fn put_in_place(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        self.storage.rename(temporary, path)?;
        self.storage.sync_folder(&self.folder)
    }

    /// Renames a file. After a crash it may already have both names. Renaming then does nothing, so this also removes
    /// the first name.
    fn move_aside(&self, path: &Path, to: &Path) -> io::Result<()> {
        self.storage.rename(path, to)?;
        match self.storage.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn failed(&mut self, temporary: &Path, error: StoreError) -> StoreError {
        self.failures += 1;
        let _ = self.storage.remove(temporary);
        match error {
            StoreError::Write { path, source, .. }
                if source.kind() == io::ErrorKind::StorageFull
                    && self.storage.free_files(&self.folder) == Some(0) =>
            {
                StoreError::NoFiles { path, source }
            }
            StoreError::Write { path, len_bytes, source } if source.kind() == io::ErrorKind::StorageFull => {
                // Report how much is missing, if the system reports free space.
                match self.storage.free_bytes(&self.folder).filter(|&free| free < len_bytes) {
                    Some(free_bytes) => {
                        StoreError::NoRoom { path, needed_bytes: len_bytes, free_bytes, source }
                    }
                    None => StoreError::Write { path, len_bytes, source },
                }
            }
            error => error,
        }
    }

    fn write(
        &self,
        temporary: &Path,
        len_bytes: u64,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        // A leftover file of this name may be a second name of another file.
        let _ = self.storage.remove(temporary);
        let file = self.storage.create(temporary, len_bytes)?;
        // The buffer gathers small writes. An archive's parts are as large as the buffer and bypass it.
        let mut file = BufWriter::with_capacity(1 << 18, file);
        write(&mut file)?;
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync()
    }

    /// Returns a file's metadata. A file that replaces it has other metadata.
    fn stamp(&self, path: &Path) -> Option<Metadata> {
        self.storage.metadata(path).ok()
    }

    fn is_verified(&self, path: &Path) -> bool {
        let stamp = self.stamp(path);
        stamp.is_some() && self.verified.get(path).copied() == stamp
    }

    /// Reads a file as resuming does: checks every checksum and parses the checkpoint. Does so once per process.
    fn verify(&mut self, path: &Path) -> Result<(), StoreError> {
        if self.is_verified(path) {
            return Ok(());
        }
        let stamp = self.stamp(path);
        discovery::open(&*self.storage, path)
            .and_then(|(file, _)| Ok(file.verify()?))
            .map_err(|source| StoreError::ReadBack { path: path.to_path_buf(), source })?;
        if let Some(stamp) = stamp {
            self.verified.insert(path.to_path_buf(), stamp);
        }
        Ok(())
    }

    /// Removes checkpoints that the folder no longer keeps, when its newest verified scheduled checkpoint is at
    /// `global_step`: scheduled ones beyond the newest valid ones, and off-schedule ones before it. Damaged files do
    /// not count as kept.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn rotate(&mut self, retention: &Retention, global_step: u64) -> Result<(), StoreError> {
        let mut checkpoints: Vec<(u64, bool, PathBuf)> = Vec::new();
        let unusable = |source| StoreError::Folder { folder: self.folder.clone(), source };
        for path in self.storage.list(&self.folder).map_err(unusable)? {
            if let Some(name) = file_name(&path).and_then(Name::parse)
                && name.global_step <= global_step
            {
                checkpoints.push((name.global_step, retention.is_scheduled(&name), path));
            }
        }
        checkpoints.sort_by(|one, other| other.cmp(one));
        let mut kept = 0;
        let mut removed = false;
        for (step, scheduled, path) in checkpoints {
            let keep = if scheduled { kept < retention.max_checkpoints } else { step >= global_step };
            if keep {
                kept += usize::from(scheduled && self.verify(&path).is_ok());
            } else {
                self.verified.remove(&path);
                self.storage.remove(&path).map_err(|source| StoreError::Remove { path, source })?;
                removed = true;
            }
        }
        if removed {
            self.storage
                .sync_folder(&self.folder)
                .map_err(|source| StoreError::Folder { folder: self.folder.clone(), source })?;
        }
        Ok(())
    }

    /// Moves every checkpoint after `global_step` to `superseded/`, and also the best model if it is later.
    ///
    /// # Errors
    /// A file cannot be moved.
    pub fn supersede(&mut self, global_step: u64) -> Result<Vec<PathBuf>, StoreError> {
        let unusable = |source| StoreError::Folder { folder: self.folder.clone(), source };
        let later = |path: &Path| match file_name(path)? {
            BEST_MODEL => discovery::stated_global_step(&*self.storage, path),
            name => Name::parse(name).map(|name| name.global_step),
        };
        let target = self.folder.join(SUPERSEDED);
        let mut moved = Vec::new();
        for path in self.storage.list(&self.folder).map_err(unusable)? {
            if later(&path).is_some_and(|step| step > global_step) {
                folder::make(&*self.storage, &target).map_err(unusable)?;
                let to = target.join(file_name(&path).unwrap_or_default());
                self.move_aside(&path, &to).map_err(|source| StoreError::Remove { path, source })?;
                moved.push(to);
            }
        }
        if !moved.is_empty() {
            self.storage.sync_folder(&target).map_err(unusable)?;
            self.storage.sync_folder(&self.folder).map_err(unusable)?;
        }
        Ok(moved)
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.folder.join(match self.failures {
            0 => format!(".{name}.tmp"),
            failures => format!(".{failures}.{name}.tmp"),
        })
    }
}

fn is_temporary(path: &Path) -> bool {
    file_name(path).is_some_and(|name| name.starts_with('.') && name.ends_with(".pt.tmp"))
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Copies the first `len_bytes` bytes of a source.
fn copy(source: &dyn ReadAt, len_bytes: u64, out: &mut dyn io::Write) -> io::Result<()> {
    let mut buffer = vec![0; len_bytes.min(1 << 18) as usize];
    let mut done = 0;
    while done < len_bytes {
        let part = &mut buffer[..(len_bytes - done).min(1 << 18) as usize];
        source.read_exact_at(part, done)?;
        out.write_all(part)?;
        done += part.len() as u64;
    }
    Ok(())
}
