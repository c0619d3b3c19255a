//! The lock that keeps a second writer out of a folder.

use super::operation;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

const NAME: &str = ".lock";

/// Held as long as it lives; the operating system releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
    missing: Option<String>,
}

impl Lock {
    /// No lock at all: for a storage that nobody else can write to, or that has none.
    pub fn none() -> Lock {
        Lock { _file: None, missing: None }
    }

    /// What the file system answered where it has no locks: then nothing keeps a second writer out.
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    pub(super) fn acquire(folder: &Path) -> io::Result<Lock> {
        let path = folder.join(NAME);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = operation::name("opening", &path, file)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: Some(file), missing: None }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) if operation::is_missing(&error) => {
                Ok(Lock { _file: None, missing: Some(error.to_string()) })
            }
            Err(TryLockError::Error(error)) => operation::name("flock of", &path, Err(error)),
        }
    }
}
