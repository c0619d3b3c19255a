//! Progress of long transfers.

use std::fmt::Debug;
use std::sync::Arc;

/// A transfer in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// What is transferred: a name, or the whole.
    pub what: String,
    /// Bytes so far.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

impl Transfer {
    /// A transfer that begins.
    pub fn new(what: &str, total_bytes: u64) -> Transfer {
        Transfer { what: what.to_owned(), done_bytes: 0, total_bytes }
    }
}

/// Receives the progress of transfers, from any thread.
pub trait Progress: Debug + Send + Sync {
    /// Some more bytes are through.
    fn transferred(&self, transfer: &Transfer);
}

/// Counts the bytes of one transfer and reports them.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    progress: Option<Arc<dyn Progress>>,
    transfer: Transfer,
}

impl Meter {
    pub(crate) fn new(progress: Option<Arc<dyn Progress>>, what: &str, total_bytes: u64) -> Meter {
        Meter { progress, transfer: Transfer::new(what, total_bytes) }
    }

    pub(crate) fn none() -> Meter {
        Meter::new(None, "", 0)
    }

    pub(crate) fn add(&mut self, bytes: u64) {
        self.transfer.done_bytes += bytes;
        if let Some(progress) = &self.progress {
            progress.transferred(&self.transfer);
        }
    }
}
