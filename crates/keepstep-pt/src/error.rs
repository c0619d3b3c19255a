//! Why a file cannot be read.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A `.pt` file that cannot be read. The variants let a caller choose: look elsewhere, use an older file, or give up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file does not exist.
    #[error("{path}: there is no such file")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The file is damaged: it contradicts itself or the format.
    #[error("{path}: the file is damaged: {reason}")]
    Corrupt {
        /// The path.
        path: PathBuf,
        /// Which part is wrong.
        reason: String,
    },
    /// The file is of a kind that this crate does not read.
    #[error("{path}: {what}")]
    Unsupported {
        /// The path.
        path: PathBuf,
        /// What the file is, and what to do instead.
        what: String,
    },
    /// The operating system reported an error.
    #[error("{path}: the file cannot be read")]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The caller asked for another element type or number of elements than the tensor has.
    #[error("the tensor has {num_elements} elements of {found}, but the caller asked for {expected}")]
    Element {
        /// The tensor's element type.
        found: crate::Dtype,
        /// The tensor's number of elements.
        num_elements: usize,
        /// The type and number that the caller asked for.
        expected: String,
    },
}

impl ReadError {
    /// Turns an error of the file's source into an error about the `.pt` file.
    pub fn io(path: &Path, source: io::Error) -> ReadError {
        Flaw::from(source).at(path)
    }

    /// Whether the file itself is at fault: it is damaged, missing or unreadable. An older file may be whole.
    pub fn is_damage(&self) -> bool {
        matches!(self, ReadError::Corrupt { .. } | ReadError::Io { .. } | ReadError::NotFound { .. })
    }
}

/// An error without its path, inside the parsers.
#[derive(Debug)]
pub(crate) enum Flaw {
    Corrupt(String),
    Unsupported(String),
    Io(io::Error),
}

pub(crate) fn corrupt<T>(reason: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw::Corrupt(reason.into()))
}

pub(crate) fn unsupported<T>(what: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw::Unsupported(what.into()))
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Flaw {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Flaw::Corrupt("it ends too early".to_owned()),
            // From `open_regular`: errors of the system itself carry no text.
            io::ErrorKind::Unsupported if error.get_ref().is_some() => Flaw::Unsupported(error.to_string()),
            _ => Flaw::Io(error),
        }
    }
}

impl Flaw {
    pub(crate) fn at(self, path: &Path) -> ReadError {
        let path = path.to_path_buf();
        match self {
            Flaw::Corrupt(reason) => ReadError::Corrupt { path, reason },
            Flaw::Unsupported(what) => ReadError::Unsupported { path, what },
            Flaw::Io(source) if source.kind() == io::ErrorKind::NotFound => ReadError::NotFound { path },
            Flaw::Io(source) => ReadError::Io { path, source },
        }
    }
}
