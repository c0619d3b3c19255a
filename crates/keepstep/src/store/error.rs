//! Errors of a store.

use super::OpenError;
use keepstep_pt::{NotStorable, ReadError};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A folder that cannot be used, or a file that could not be published. Nothing older was touched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process writes to the folder.
    #[error("{folder}: another process is training into this folder")]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder cannot be made, listed or locked.
    #[error("{folder}: the folder cannot be used")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A checkpoint could not be written.
    #[error("{path}: the checkpoint ({len_bytes} bytes) could not be saved; every older one is untouched")]
    Write {
        /// The file.
        path: PathBuf,
        /// Its size.
        len_bytes: u64,
        /// The cause.
        source: io::Error,
    },
    /// The disk is too full for a checkpoint.
    #[error(
        "{path}: the checkpoint needs {:.1} MB and {:.1} MB are free: {:.1} MB are missing; every older checkpoint is \
         untouched",
        *needed_bytes as f64 / 1e6, *free_bytes as f64 / 1e6, needed_bytes.saturating_sub(*free_bytes) as f64 / 1e6
    )]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Its size.
        needed_bytes: u64,
        /// Free bytes on the disk.
        free_bytes: u64,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The state holds a value that a file cannot store.
    #[error("{path}: the checkpoint cannot be saved; every older one is untouched")]
    NotStorable {
        /// The file.
        path: PathBuf,
        /// The value that cannot be stored, and its place in the file.
        source: NotStorable,
    },
    /// The file system has no free inodes.
    #[error(
        "{path}: the checkpoint could not be saved because the file system has no free inodes: it can hold no more files, \
         though it may have free bytes; every older checkpoint is untouched"
    )]
    NoFiles {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file that was read back differs from what was written.
    #[error("{path}: the checkpoint was written, but reading it back failed; every older one is untouched")]
    ReadBack {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: OpenError,
    },
    /// The existing best model cannot be read, and may be better than the new one.
    #[error("{path}: the existing best model cannot be read, so it is not replaced")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: ReadError,
    },
    /// An old file could not be removed or moved.
    #[error("{path}: the file cannot be removed or moved")]
    Remove {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}
