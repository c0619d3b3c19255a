//! The core as a loop of another crate uses it.

mod any_value;
mod early_stop;
mod old_checkpoints;
mod old_journals;
mod toy;
