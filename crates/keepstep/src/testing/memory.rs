//! A storage in memory that records every operation, as a process and its kernel see them.

use crate::store::{Lock, Metadata, Storage, StorageFile};
use keepstep_pt::ReadAt;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

/// Identifies a file under all its names: an inode.
pub type FileId = u64;

/// An operation that the storage has done.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are those of the operation")]
pub enum Operation {
    /// Made a folder.
    CreateFolder { path: PathBuf },
    /// Made an empty file.
    Create { path: PathBuf, file: FileId },
    /// Wrote bytes at an offset.
    Write { file: FileId, offset: usize, bytes: Vec<u8> },
    /// Made a file's content durable.
    Sync { file: FileId },
    /// Gave a file another name.
    Rename { from: PathBuf, to: PathBuf, file: FileId },
    /// Gave a file a second name.
    Link { path: PathBuf, file: FileId },
    /// Removed a name.
    Remove { path: PathBuf },
    /// Made the names of a folder durable.
    SyncFolder { path: PathBuf },
}

/// Folders and files.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// The folders.
    pub folders: BTreeSet<PathBuf>,
    /// The names, and the files that they belong to.
    pub names: BTreeMap<PathBuf, FileId>,
    /// What is in each file.
    pub contents: BTreeMap<FileId, Arc<Vec<u8>>>,
}

impl Tree {
    /// Returns the content under a name.
    pub fn content(&self, path: &Path) -> Option<&Arc<Vec<u8>>> {
        self.contents.get(self.names.get(path)?)
    }

    /// Changes the tree as the kernel's own view of the files changes.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateFolder { path } => {
                self.folders.insert(path.clone());
            }
            Operation::Create { path, file } => {
                self.names.insert(path.clone(), *file);
                self.contents.insert(*file, Arc::default());
            }
            Operation::Write { file, offset, bytes } => {
                let content = Arc::make_mut(self.contents.entry(*file).or_default());
                content.resize(content.len().max(offset + bytes.len()), 0);
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Operation::Rename { from, to, file } => {
                // Two names of one file: POSIX does nothing.
                if self.names.get(to) != Some(file) {
                    self.names.remove(from);
                    self.names.insert(to.clone(), *file);
                }
            }
            Operation::Link { path, file } => {
                self.names.insert(path.clone(), *file);
            }
            Operation::Remove { path } => {
                self.names.remove(path);
            }
            Operation::Sync { .. } | Operation::SyncFolder { .. } => {}
        }
    }
}

/// Guarantees that a test takes away, to check that their absence is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lies {
    /// Syncing a file does nothing.
    pub no_sync: bool,
    /// Syncing a folder does nothing.
    pub no_sync_folder: bool,
}

/// A storage in memory. Clones share its files.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    tree: Tree,
    versions: BTreeMap<FileId, u64>,
    next: u64,
    log: Vec<Operation>,
    lies: Lies,
    has_no_links: bool,
}

impl Memory {
    /// Makes a storage that holds this tree, and records its operations.
    pub fn new(tree: Tree) -> Memory {
        let next = tree.contents.keys().next_back().map_or(1, |last| last + 1);
        Memory(Arc::new(Mutex::new(Inner { tree, next, ..Inner::default() })))
    }

    /// Takes guarantees away.
    pub fn lying(self, lies: Lies) -> Memory {
        self.inner().lies = lies;
        self
    }

    /// Takes hard links away.
    pub fn without_links(self) -> Memory {
        self.inner().has_no_links = true;
        self
    }

    /// Counts the recorded operations.
    pub fn num_operations(&self) -> usize {
        self.inner().log.len()
    }

    /// Returns the recorded operations.
    pub fn operations(&self) -> Vec<Operation> {
        self.inner().log.clone()
    }

    /// Returns the folders and files.
    pub fn tree(&self) -> Tree {
        self.inner().tree.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic while it was held")
    }
}

impl Inner {
    fn record(&mut self, operation: Operation) {
        match operation {
            Operation::Sync { .. } if self.lies.no_sync => return,
            Operation::SyncFolder { .. } if self.lies.no_sync_folder => return,
            Operation::Create { file, .. } | Operation::Write { file, .. } => {
                self.next += 1;
                self.versions.insert(file, self.next);
            }
            _ => {}
        }
        self.tree.apply(&operation);
        self.log.push(operation);
    }

    fn file(&self, path: &Path) -> io::Result<FileId> {
        Ok(*self.tree.names.get(path).ok_or(io::ErrorKind::NotFound)?)
    }

    fn need_parent(&self, path: &Path) -> io::Result<()> {
        let there = path.parent().is_none_or(|parent| self.tree.folders.contains(parent));
        if there { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Storage for Memory {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        let missing: Vec<_> = path.ancestors().filter(|path| !inner.tree.folders.contains(*path)).collect();
        for path in missing.into_iter().rev() {
            inner.record(Operation::CreateFolder { path: path.to_path_buf() });
        }
        Ok(())
    }

    fn create(&self, path: &Path, _len_bytes: u64) -> io::Result<Box<dyn StorageFile>> {
        let mut inner = self.inner();
        inner.need_parent(path)?;
        if inner.tree.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = inner.next;
        inner.record(Operation::Create { path: path.to_path_buf(), file });
        Ok(Box::new(Open { memory: self.clone(), file, offset: 0 }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.need_parent(to)?;
        let file = inner.file(from)?;
        inner.record(Operation::Rename { from: from.to_path_buf(), to: to.to_path_buf(), file });
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.need_parent(to)?;
        let file = inner.file(from)?;
        if inner.has_no_links {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if inner.tree.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.record(Operation::Link { path: to.to_path_buf(), file });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.file(path)?;
        inner.record(Operation::Remove { path: path.to_path_buf() });
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        if !inner.tree.folders.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.record(Operation::SyncFolder { path: path.to_path_buf() });
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let inner = self.inner();
        if !inner.tree.folders.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let all = inner.tree.names.keys().chain(&inner.tree.folders);
        let mut there: Vec<PathBuf> = all.filter(|entry| entry.parent() == Some(path)).cloned().collect();
        there.sort();
        Ok(there)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let inner = self.inner();
        let content = Arc::clone(&inner.tree.contents[&inner.file(path)?]);
        Ok(content)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let inner = self.inner();
        if inner.tree.folders.contains(path) {
            return Ok(Metadata { is_folder: true, len_bytes: 0, modified: None });
        }
        let file = inner.file(path)?;
        let version = inner.versions.get(&file).copied().unwrap_or(0);
        Ok(Metadata {
            is_folder: false,
            len_bytes: inner.tree.contents[&file].len() as u64,
            modified: Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(file << 32 | version)),
        })
    }

    fn lock(&self, _folder: &Path) -> io::Result<Lock> {
        Ok(Lock::none())
    }

    fn free_bytes(&self, _folder: &Path) -> Option<u64> {
        None
    }

    fn free_files(&self, _folder: &Path) -> Option<u64> {
        None
    }
    fn is_fuse(&self, _folder: &Path) -> bool {
        false
    }
}

/// A file that is being written.
struct Open {
    memory: Memory,
    file: FileId,
    offset: usize,
}

impl Write for Open {
    /// Writes in parts, each an operation: a crash can come between them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(1000)];
        let write = Operation::Write { file: self.file, offset: self.offset, bytes: part.to_vec() };
        self.memory.inner().record(write);
        self.offset += part.len();
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
impl StorageFile for Open {
    fn sync(&mut self) -> io::Result<()> {
        self.memory.inner().record(Operation::Sync { file: self.file });
        Ok(())
    }
}
