#![doc = include_str!("../README.md")]

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
