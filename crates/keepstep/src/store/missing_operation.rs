//! Operations that a file system does not have.

use std::fmt;
use std::path::PathBuf;

/// An operation that a folder's file system does not have, and that the store does without. As text it is one sentence
/// with the guarantee that is missing for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingOperation {
    /// The file system has no locks.
    Lock {
        /// The folder.
        folder: PathBuf,
        /// The file system's error.
        reason: String,
    },
    /// The file system cannot make the names in a folder durable.
    FolderSync {
        /// The folder.
        folder: PathBuf,
        /// The file system's error.
        reason: String,
    },
    /// A program stands between the folder and its disk (FUSE): a sync may return before the data is stored.
    PromptSync {
        /// The folder.
        folder: PathBuf,
    },
}

impl fmt::Display for MissingOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MissingOperation::Lock { folder, reason } => write!(
                f,
                "{}: this file system has no locks (flock: {reason}), and nothing keeps a second process from \
                 training into this folder",
                folder.display()
            ),
            MissingOperation::FolderSync { folder, reason } => write!(
                f,
                "{}: this file system cannot sync folders (fsync: {reason}). Checkpoints survive a crash of this \
                 program, but a loss of power may destroy the newest ones",
                folder.display()
            ),
            MissingOperation::PromptSync { folder } => write!(
                f,
                "{}: this is a FUSE file system, such as a mounted Google Drive or bucket. It may report a checkpoint as \
                 stored before it is, and lose it with this machine",
                folder.display()
            ),
        }
    }
}
