//! Paths that match a pattern and cannot be read.

use super::{CorpusError, DataConfig};
use std::io;
use std::path::PathBuf;

/// The unreadable paths that were skipped, if the config allows that.
pub(super) struct Unreadable {
    is_allowed: bool,
    /// The first of them, with the cause.
    first: Option<(PathBuf, io::Error)>,
    count: usize,
}

impl Unreadable {
    pub(super) fn new(data: &DataConfig) -> Unreadable {
        Unreadable { is_allowed: data.skip_unreadable, first: None, count: 0 }
    }

    /// Skips a path.
    ///
    /// # Errors
    /// Fails if the config does not allow it.
    pub(super) fn leave_out(&mut self, path: PathBuf, source: io::Error) -> Result<(), CorpusError> {
        if !self.is_allowed {
            return Err(CorpusError::Inaccessible { path, source });
        }
        self.count += 1;
        self.first.get_or_insert((path, source));
        Ok(())
    }

    /// Describes the skipped paths, for the user.
    pub(super) fn note(&self) -> Option<String> {
        let (path, error) = self.first.as_ref()?;
        let path = path.display();
        Some(match self.count {
            1 => format!("{path} cannot be read and is skipped: {error}"),
            count => format!("{count} paths cannot be read and are skipped; the first is {path}: {error}"),
        })
    }
}
