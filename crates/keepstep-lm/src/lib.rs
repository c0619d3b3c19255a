//! Training text-generation models: GPT-2 with an engine whose every bit is defined, on any number of threads and any
//! processor.

pub mod config;
pub mod corpus;
pub mod engine;
pub mod export;
mod files;
mod flat_buffer;
pub mod foreign;
pub mod generate;
pub mod gradient;
pub mod model;
pub mod numerics;
pub mod optimizer;
pub mod parameters;
pub mod schedule;
mod state_dict;
pub mod tensorboard;
pub mod tokenizer;
pub mod trained;
pub mod trainer;

pub use config::Config;
pub use state_dict::StateDictError;
