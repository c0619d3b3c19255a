//! The payload of one entry: where it lies, and its checksum, which is compared whenever the whole of it is read.

use crate::bytes::Bytes;
use crate::error::Flaw;
use crate::share;
use crate::zip_reader::{Directory, Entry};
use std::sync::Arc;

/// The payload of an entry of an open file. Clones share the file.
#[derive(Debug, Clone)]
pub(crate) struct EntryBytes {
    file: Bytes,
    directory: Arc<Directory>,
    at: usize,
}

impl EntryBytes {
    /// The payload of the entry with the index `at`.
    pub(crate) fn new(file: &Bytes, directory: &Arc<Directory>, at: usize) -> EntryBytes {
        EntryBytes { file: file.clone(), directory: Arc::clone(directory), at }
    }

    fn entry(&self) -> &Entry {
        &self.directory.entries[self.at]
    }

    /// The index of the entry, if it is one of this directory.
    pub(crate) fn index_in(&self, directory: &Arc<Directory>) -> Option<usize> {
        Arc::ptr_eq(directory, &self.directory).then_some(self.at)
    }

    pub(crate) fn len(&self) -> u64 {
        self.entry().size
    }

    pub(crate) fn file(&self) -> &Bytes {
        &self.file
    }

    /// Fills `out` with the bytes that begin at `offset`. Reading the whole entry compares its checksum: then it need not
    /// be read again to verify it.
    pub(crate) fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<(), Flaw> {
        let bytes = self.file.part(self.entry().payload(&self.file)?, self.entry().size);
        if offset != 0 || out.len() as u64 != bytes.len || !self.directory.is_checksummed() {
            return share::read(&bytes, out, offset);
        }
        self.entry().compare(share::read_and_hash(&bytes, out)?)?;
        self.directory.set_matched(self.at);
        Ok(())
    }
}
