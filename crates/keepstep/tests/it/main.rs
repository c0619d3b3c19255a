//! The core as a loop of another crate uses it.

mod any_value;
mod damage;
mod early_stop;
mod old_checkpoints;
mod old_journals;
mod rewind;
#[path = "../support/mod.rs"]
mod support;
mod toy;
