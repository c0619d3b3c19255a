//! What the file system says of a file, and what may be concluded from it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Timestamps of the coarsest file system, in seconds.
const GRANULARITY: i64 = 2;

/// A file's identity, size and times.
///
/// The time of its last *change* (ctime) is set by the kernel whenever content, name or mode changes, and no program can
/// set it back, as it can the time of modification. A file with the same stamp has the same content, if its last change
/// lay far enough in the past when it was looked at (see [`Stamp::is_settled`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) const BYTES: usize = 48;

    pub(super) fn of(metadata: &Metadata) -> Stamp {
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

    /// Whether a change after `look`, a file that was made just before this stamp was taken, would give another stamp:
    /// two changes within one tick of the file system's clock give the same.
    pub(super) fn is_settled(&self, look: &Stamp) -> bool {
        self.changed.0.saturating_add(GRANULARITY) < look.changed.0
    }

    /// Whether nothing speaks of another content; a new name or mode does not.
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

    /// The reverse.
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
