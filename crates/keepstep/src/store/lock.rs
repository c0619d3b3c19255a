//! The lock that keeps a second writer out of a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

const NAME: &str = ".lock";

/// Held as long as it lives; the operating system releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// No lock at all: for a storage that nobody else can write to, or that has none.
    pub fn none() -> Lock {
        Lock { _file: None }
    }

    pub(super) fn acquire(folder: &Path) -> io::Result<Lock> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(NAME))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            // Some network file systems have no locks; then there is none to hold.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(Lock::none()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
