//! Models and the engines that train them. Every bit that an engine computes is defined, on any number of threads and any
//! processor. No files and no config format: sizes and settings come in as values.

pub mod engine;
mod error;
pub mod gpt2;
pub mod layout;
pub mod memory;
pub mod model;
pub mod ops;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod train;
