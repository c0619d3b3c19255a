//! Under construction.
pub mod name;
pub mod order;
pub mod position;
pub mod rng;
