//! Models and the engines that train them. Every bit that an engine computes is defined, on any number of threads and any
//! processor. No files and no config format: sizes and settings come in as values.

pub mod engine;
pub mod gpt2;
pub mod layout;
pub mod ops;
pub mod train;
