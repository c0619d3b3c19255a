//! Training text-generation models: GPT-2 with an engine whose every bit is defined, on any number of threads and any
//! processor.

pub mod engine;
pub mod gradient;
pub mod model;
pub mod numerics;
pub mod optimizer;
pub mod parameters;
