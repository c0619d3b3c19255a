//! TensorBoard's event files, written beside a run from its journal.
//!
//! The journal is the truth: the files hold a beginning of what it makes, byte for byte. A session compares them with it,
//! cuts whatever differs (an update that was taken back, a torn record, damage), and adds what is missing. So there is one
//! curve, after any kill and in any folder that the journal was carried to.

mod files;
mod journal_tail;
mod message;
mod record;

pub use journal_tail::JournalTail;

/// The folder of the event files, in the run's.
pub const TENSORBOARD: &str = "tensorboard";
