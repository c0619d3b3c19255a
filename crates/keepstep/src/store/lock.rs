//! The lock that keeps a second writer out of a folder.

use super::operation;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

const NAME: &str = ".lock";

/// A lock that is held until it is dropped. The operating system also releases it whenever the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
    missing: Option<String>,
}

impl Lock {
    /// Stands in for a lock on a storage that has none, or that nobody else can write to.
    pub fn none() -> Lock {
        Lock { _file: None, missing: None }
    }

    /// Returns the file system's error if it has no locks. Nothing keeps a second writer out then.
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
