//! GPT-2 as `transformers.GPT2LMHeadModel` defines it, and everything specific to it.

pub(crate) mod block;
mod buffers;
mod cpu;
pub mod decode;
pub(crate) mod dropout_site;
pub mod layout;
mod packed;
pub mod settings;
mod weight_gradients;

pub use cpu::{Gpt2, Gpt2Spec};
pub use layout::initial_parameters;
pub use settings::{Gpt2Config, Gpt2Settings};

/// GPT-2 on the CPU.
pub type CpuEngine = crate::train::cpu_engine::CpuEngine<Gpt2>;
