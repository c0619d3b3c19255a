//! Storages for tests: the disk with faults, and one in memory that records what is done to it.
//!
//! Tests alone use them; the feature `testing` compiles them for other crates. They panic where a test has gone wrong.

mod hooked;
mod memory;
mod scripted;

pub use hooked::{Hooked, Hooks};
pub use memory::{FileId, Lies, Memory, Operation, Tree};
pub use scripted::{Faulty, Lacking, SlowDisk, SyncSwitch, Syncs, Watched};
