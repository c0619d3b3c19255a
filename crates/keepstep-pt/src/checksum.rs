//! The checksum of one entry, compared whenever the whole entry is read.

use crate::error::Flaw;
use crate::zip_reader::Directory;
use std::sync::Arc;

/// The checksum of an entry of an open file.
#[derive(Debug, Clone)]
pub(crate) struct Checksum {
    directory: Arc<Directory>,
    at: usize,
}

impl Checksum {
    /// The checksum of the entry with the index `at`.
    pub(crate) fn new(directory: &Arc<Directory>, at: usize) -> Checksum {
        Checksum { directory: Arc::clone(directory), at }
    }

    /// Compares the CRC-32 of the bytes that were read. If it matches, the entry need not be read again to verify it.
    pub(crate) fn compare(&self, crc: u32) -> Result<(), Flaw> {
        self.directory.entries[self.at].compare(crc)?;
        self.directory.set_matched(self.at);
        Ok(())
    }
}
