//! What patterns match and cannot be read.

use super::{CorpusError, DataConfig};
use std::io;
use std::path::PathBuf;

/// Paths that are left out because they cannot be read, where the config allows it.
pub(super) struct Unreadable {
    is_allowed: bool,
    /// The first of them, and why.
    first: Option<(PathBuf, io::Error)>,
    count: usize,
}

impl Unreadable {
    pub(super) fn new(data: &DataConfig) -> Unreadable {
        Unreadable { is_allowed: data.skip_unreadable, first: None, count: 0 }
    }

    /// Leaves a path out.
    ///
    /// # Errors
    /// The config does not allow it.
    pub(super) fn leave_out(&mut self, path: PathBuf, source: io::Error) -> Result<(), CorpusError> {
        if !self.is_allowed {
            return Err(CorpusError::Inaccessible { path, source });
        }
        self.count += 1;
        self.first.get_or_insert((path, source));
        Ok(())
    }

    /// What people should know of the paths that were left out.
    pub(super) fn note(&self) -> Option<String> {
        let (path, error) = self.first.as_ref()?;
        let path = path.display();
        Some(match self.count {
            1 => format!("{path} cannot be read and is left out of the corpus: {error}"),
            count => format!(
                "{count} paths cannot be read and are left out of the corpus; the first is {path}: {error}"
            ),
        })
    }
}
