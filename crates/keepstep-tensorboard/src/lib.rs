//! TensorBoard's event files, written next to a run from its journal.
//!
//! The journal is the source of truth. The event files are always a byte-exact prefix of what the journal would
//! produce. A session truncates them at the first record that differs (from an update that was rewound, a torn write,
//! or damage) and appends from there. The result is one curve, after any kill and in any folder that the journal was
//! copied to.

mod files;
mod journal_tail;
mod message;
mod record;

pub use journal_tail::JournalTail;

/// The name of the folder of event files, inside the run's folder.
pub const TENSORBOARD: &str = "tensorboard";
