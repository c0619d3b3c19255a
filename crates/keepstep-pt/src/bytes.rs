//! A range of bytes of an open file: the part that every reader of the file shares.

use crate::ReadAt;
use crate::error::{Flaw, corrupt};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A range of bytes of an open file. Clones share the file.
#[derive(Debug, Clone)]
pub(crate) struct Bytes {
    source: Arc<Source>,
    start: u64,
    pub(crate) len: u64,
}

#[derive(Debug)]
struct Source {
    file: Arc<dyn ReadAt>,
    path: PathBuf,
    /// The memory that reading this file may still take after parsing.
    spare_bytes: AtomicU64,
}

impl Bytes {
    /// A whole file of `len` bytes. Errors name it by `path`.
    pub(crate) fn new(file: Arc<dyn ReadAt>, path: &Path, len: u64) -> Bytes {
        let source = Source { file, path: path.to_path_buf(), spare_bytes: AtomicU64::new(0) };
        Bytes { source: Arc::new(source), start: 0, len }
    }

    /// Fills `out` with the bytes that begin at `offset`. Fails if they reach beyond this range.
    pub(crate) fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<(), Flaw> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return corrupt("something reaches beyond the end of the file");
        }
        Ok(self.source.file.read_exact_at(out, self.start + offset)?)
    }

    /// Tells the source of the file that a range will be read.
    pub(crate) fn will_read(&self, range: Range<u64>) {
        self.source.file.will_read(range);
    }

    /// A range within this one.
    pub(crate) fn part(&self, start: u64, len: u64) -> Bytes {
        Bytes { source: Arc::clone(&self.source), start: self.start + start, len }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.source.path
    }

    /// The memory that reading this file may still take.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.source.spare_bytes.load(Relaxed)
    }

    /// Records how much memory is left after parsing.
    pub(crate) fn set_spare_bytes(&self, bytes: u64) {
        self.source.spare_bytes.store(bytes, Relaxed);
    }
}
