//! Corpora as other crates use them.

mod cache;
mod globs;
mod left_out;
