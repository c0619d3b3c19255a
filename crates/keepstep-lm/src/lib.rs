//! Training text-generation models: GPT-2 with an engine whose every bit is defined, on any number of threads and any
//! processor.

pub mod config;
pub mod generate;
pub mod hub;
pub mod import;
pub mod trainer;

pub use config::Config;
pub use keepstep_model::train::state_dict::StateDictError;
