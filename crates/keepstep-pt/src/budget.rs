//! Limits what parsing may allocate: no file makes memory grow beyond twice its size plus 16 MB.

use crate::error::{Flaw, unsupported};

/// The number of bytes that may still be allocated.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
}

impl Budget {
    /// Twice the file's size plus 12 MB. The other 4 MB are for buffers.
    pub(crate) fn for_file(len_bytes: u64) -> Budget {
        Budget { left: len_bytes.saturating_mul(2).saturating_add(12 << 20) }
    }

    /// Accounts for an allocation that is about to be made.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Flaw> {
        match self.left.checked_sub(bytes as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => unsupported("reading it would take more than twice its size in memory, so it is refused"),
        }
    }

    /// Makes room for `more` items in a vector. Counts its capacity, and both copies while the vector moves.
    pub(crate) fn reserve<T>(&mut self, items: &mut Vec<T>, more: usize) -> Result<(), Flaw> {
        let (held, needed) = (items.capacity(), items.len() + more);
        if needed > held {
            let capacity = needed.max(2 * held).max(4);
            self.take(capacity.saturating_mul(size_of::<T>()))?;
            items.reserve_exact(capacity - items.len());
            self.give_back(held * size_of::<T>());
        }
        Ok(())
    }

    /// The bytes that may still be taken.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Returns bytes that were freed.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes as u64);
    }
}
