//! A folder of checkpoints: durable publishing, rotation, the best, a lock against a second writer.
//!
//! # Durability
//! A file gets its final name only after its content is durable, and the name is durable before publishing returns.
//! Nothing older is removed before what replaces it has been read back and verified. A process that dies at any
//! instant leaves the old files, or the old files and the new one; at worst also a temporary file, which the next
//! opening removes.

mod discovery;
mod disk_file;
mod error;
#[cfg(test)]
mod faults;
mod folder;
mod lock;
mod operation;
mod retry_interrupted;
mod storage;
mod write_whole;

pub(crate) use discovery::open;
pub use discovery::{Candidates, Newest, OpenError, Skipped, Source, SourceError, chain, find, load};
pub use error::StoreError;
pub use lock::Lock;
pub use storage::{Disk, Metadata, Storage, StorageFile};
pub use write_whole::{temporary_file, write_whole};

use crate::cadence::Cadence;
use crate::name::{BEST_MODEL, Name};
use keepstep_pt::{Archive, ReadAt};
use retry_interrupted::{Missing, RetryInterrupted};
use std::collections::BTreeMap;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder that later checkpoints are moved to by a rewind.
pub const SUPERSEDED: &str = "superseded";

/// A folder that this process alone writes to.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    storage: Arc<dyn Storage>,
    lock: Lock,
    /// What the file system could not do where the store went on without it.
    missing: Missing,
    /// Files that this process has read and found whole, with what the system said of them then.
    verified: BTreeMap<PathBuf, Metadata>,
    /// Writes that have failed: each later one has a file of its own, so that none goes on in one that the disk failed.
    failures: u64,
}

/// Which scheduled checkpoints a folder keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How many of the newest, at least 1.
    pub max_checkpoints: usize,
    /// Which checkpoints are scheduled ones.
    pub cadence: Cadence,
    /// The global step at which the run ends.
    pub end: u64,
}

impl Retention {
    /// Whether a checkpoint of this name is one of the scheduled ones.
    pub fn is_scheduled(&self, name: &Name) -> bool {
        self.cadence.is_scheduled(name, self.end)
    }
}

/// Room on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes of the checkpoints that are there.
    pub stored_bytes: u64,
    /// Files that may still be made (free inodes), where there is such a limit.
    pub free_files: Option<u64>,
}

impl Room {
    /// Bytes that this process may still write to the file system of a folder on the disk, and bytes of the checkpoints in
    /// it. The folder need not be there yet. None where the system does not say.
    pub fn of(folder: &Path) -> Option<Room> {
        Room::on(&Disk, folder)
    }

    pub(crate) fn on(storage: &dyn Storage, folder: &Path) -> Option<Room> {
        // A relative path ends in the folder that the program was started in.
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
    /// Opens the folder, making it where it is not there, and removes what a killed process left half written.
    ///
    /// # Errors
    /// Another process writes to it, or it cannot be used.
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
        // A killed process may not have synced what is seen here: a file that it moved aside would be lost if a new one
        // took its name before that.
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

    /// What this folder's file system cannot do, and what is therefore not promised in it.
    pub fn notes(&self) -> Vec<String> {
        let folder = self.folder.display();
        let lock = self.lock.missing().map(|reason| {
            format!(
                "{folder}: this file system has no locks (flock: {reason}). Make sure that no second process trains into \
                 this folder at the same time"
            )
        });
        let sync = self.missing.folder_sync().map(|reason| {
            format!(
                "{folder}: this file system cannot sync folders (fsync: {reason}). Checkpoints survive a crash of this \
                 program; a loss of power may take the newest ones"
            )
        });
        lock.into_iter().chain(sync).collect()
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The room on the disk of the folder.
    pub fn room(&self) -> Option<Room> {
        Room::on(&*self.storage, &self.folder)
    }

    /// Publishes an archive under a name, durably, and reads it back.
    ///
    /// # Durability
    /// When it returns, the file outlives the loss of power, and every checksum in it has been seen to hold.
    ///
    /// # Errors
    /// The file could not be written, or does not read back; an older file of that name is untouched by the former.
    pub fn publish(&mut self, name: &str, archive: &Archive) -> Result<PathBuf, StoreError> {
        let len_bytes = archive.len_bytes();
        self.publish_with(name, len_bytes, |file| archive.write_to(file))
    }

    /// Publishes a copy of a file's bytes.
    ///
    /// # Errors
    /// As [`Store::publish`].
    pub fn publish_copy(&mut self, name: &str, from: &Path) -> Result<PathBuf, StoreError> {
        let to = self.folder.join(name);
        let unreadable = |source| StoreError::Write { path: to.clone(), len_bytes: 0, source };
        let source = self.storage.open(from).map_err(unreadable)?;
        let len_bytes = source.len_bytes().map_err(unreadable)?;
        self.publish_with(name, len_bytes, |file| copy(&*source, len_bytes, file))
    }

    /// Gives the content of `existing` a second name, or copies it where the file system has no hard links.
    ///
    /// # Errors
    /// As [`Store::publish`].
    pub fn publish_link(&mut self, name: &str, existing: &str) -> Result<PathBuf, StoreError> {
        let (from, path) = (self.folder.join(existing), self.folder.join(name));
        let temporary = self.temporary(name);
        let _ = self.storage.remove(&temporary);
        if self.storage.link(&from, &temporary).is_err() {
            return self.publish_copy(name, &from);
        }
        let known = self.verified.get(&from).copied().filter(|_| self.is_verified(&from));
        let moved = self.put_in_place(&temporary, &path);
        // Renaming one name of a file to another name of the same file does nothing: the first must still go.
        let _ = self.storage.remove(&temporary);
        moved.map_err(|source| StoreError::Write { path: path.clone(), len_bytes: 0, source })?;
        // It is one file: what was read back under one name need not be read under the other.
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
        // What has the name goes with the rename, and nothing goes before what replaces it has been read back.
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

    /// Renames, also where a crash left both names of one file: renaming then does nothing, and the first must still go.
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
                // In words that say how much is missing, where the system says so.
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
        // What is left under this name may be another file's second name.
        let _ = self.storage.remove(temporary);
        let file = self.storage.create(temporary, len_bytes)?;
        // Smaller writes are gathered; an archive's parts are of this size and go past the buffer.
        let mut file = BufWriter::with_capacity(1 << 18, file);
        write(&mut file)?;
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync()
    }

    /// What the system says of a file; another one under the same name has another.
    fn stamp(&self, path: &Path) -> Option<Metadata> {
        self.storage.metadata(path).ok()
    }

    fn is_verified(&self, path: &Path) -> bool {
        let stamp = self.stamp(path);
        stamp.is_some() && self.verified.get(path).copied() == stamp
    }

    /// Reads a file as resuming will: checks every checksum and parses the checkpoint. Once per process.
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

    /// Removes what a folder whose newest verified scheduled checkpoint is at `global_step` no longer keeps: scheduled
    /// checkpoints beyond the newest valid ones, and off-schedule ones before it. Damaged files are not counted.
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

    /// Moves every checkpoint after `global_step`, and the best if it is later, to `superseded/`.
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

/// Copies the first `len_bytes` of a source.
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
