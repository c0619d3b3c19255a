//! Why a file cannot be read.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A `.pt` file that cannot be read. The variants let a caller choose: look elsewhere, use an older file, or give up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is no such file.
    #[error("{path}: there is no such file")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The file is damaged: what it says cannot be.
    #[error("{path}: the file is damaged: {reason}")]
    Corrupt {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file may be sound, but is of a kind that is not read.
    #[error("{path}: {what}")]
    Unsupported {
        /// The path.
        path: PathBuf,
        /// What it is, and what is read instead.
        what: String,
    },
    /// The operating system refused.
    #[error("{path}: the file cannot be read")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A tensor is asked for as something that it is not.
    #[error("the tensor holds {found} of {num_elements} elements, and {expected} was asked for")]
    Element {
        /// What it holds.
        found: crate::Dtype,
        /// How many.
        num_elements: usize,
        /// What was asked for.
        expected: String,
    },
}

impl ReadError {
    /// What it means for a `.pt` file that its source gives this error.
    pub fn io(path: &Path, source: io::Error) -> ReadError {
        Flaw::from(source).at(path)
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
            // What `open_regular` says; the system's own have no text inside.
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
