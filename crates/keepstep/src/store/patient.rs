//! A storage that begins again what a signal has interrupted.

use super::{Lock, Metadata, Storage, StorageFile};
use keepstep_pt::ReadAt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Attempts before an interruption counts as a failure.
const ATTEMPTS: u32 = 100;

#[derive(Debug)]
pub(super) struct Patient(pub(super) Arc<dyn Storage>);

struct PatientFile(Box<dyn StorageFile>);

/// Does it again while it is interrupted.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..ATTEMPTS {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
    // Of another kind, so that nobody above tries for ever.
    attempt().map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => io::Error::other(error),
        _ => error,
    })
}

impl Write for PatientFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        patiently(|| self.0.write(bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        patiently(|| self.0.flush())
    }
}

impl StorageFile for PatientFile {
    fn sync(&mut self) -> io::Result<()> {
        patiently(|| self.0.sync())
    }
}

impl Storage for Patient {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        patiently(|| self.0.create_folder(path))
    }
    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn StorageFile>> {
        let file = patiently(|| self.0.create(path, len_bytes))?;
        Ok(Box::new(PatientFile(file)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        patiently(|| self.0.rename(from, to))
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        patiently(|| self.0.link(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        patiently(|| self.0.remove(path))
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        patiently(|| self.0.sync_folder(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        patiently(|| self.0.list(path))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        patiently(|| self.0.open(path))
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        patiently(|| self.0.metadata(path))
    }
    fn lock(&self, folder: &Path) -> io::Result<Lock> {
        patiently(|| self.0.lock(folder))
    }
    fn free_bytes(&self, folder: &Path) -> Option<u64> {
        self.0.free_bytes(folder)
    }
}
