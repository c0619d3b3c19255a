//! The core as a loop of another crate uses it.

#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod any_value;
mod crash_states;
mod damage;
mod early_stop;
mod old_checkpoints;
mod old_journals;
mod rewind;
#[path = "../support/mod.rs"]
mod support;
mod toy;
