//! File metadata that shows whether a file has changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// The granularity of timestamps on the coarsest file system, in seconds.
const GRANULARITY: i64 = 2;

/// A file's identity, size and times.
///
/// The kernel sets the time of the last *change* (ctime) whenever content, name or mode changes. Unlike the
/// modification time, no program can set it back. Two files with the same stamp have the same content, if the last
/// change was old enough when the stamp was taken (see [`Stamp::is_settled`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    /// Modification time, in seconds and nanoseconds.
    modified: (i64, i64),
    /// Change time, in seconds and nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    pub(super) const BYTES: usize = 48;

    pub(super) fn from_metadata(metadata: &Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reports whether any later change would give another stamp. `reference` is the stamp of a file created just
    /// before this stamp was taken. Two changes within one tick of the file system's clock have the same time, so the
    /// last change must be older than one tick.
    pub(super) fn is_settled(&self, reference: &Stamp) -> bool {
        self.changed.0.saturating_add(GRANULARITY) < reference.changed.0
    }

    /// Reports whether both stamps indicate the same content. A new name or mode does not matter.
    pub(super) fn has_content_of(&self, other: &Stamp) -> bool {
        (self.inode, self.size, self.modified) == (other.inode, other.size, other.modified)
    }

    pub(super) fn to_bytes(self) -> [u8; Stamp::BYTES] {
        let numbers = [
            self.inode,
            self.size,
            self.modified.0 as u64,
            self.modified.1 as u64,
            self.changed.0 as u64,
            self.changed.1 as u64,
        ];
        let mut bytes = [0; Stamp::BYTES];
        for (bytes, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Decodes the bytes from [`Stamp::to_bytes`].
    pub(super) fn from_bytes(bytes: &[u8; Stamp::BYTES]) -> Stamp {
        let number = |index: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[index * 8..(index + 1) * 8]);
            u64::from_le_bytes(number)
        };
        Stamp {
            inode: number(0),
            size: number(1),
            modified: (number(2) as i64, number(3) as i64),
            changed: (number(4) as i64, number(5) as i64),
        }
    }
}
