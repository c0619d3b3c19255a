//! Models in the layout of the Hugging Face hub: initial weights for new runs, and exports.

mod error;
#[cfg(feature = "hub")]
pub mod export;
pub(crate) mod gpt2_config;
mod init_from;
pub(crate) mod names;
pub(crate) mod numbers;
pub(crate) mod tensors;
pub mod trained;
pub(crate) mod weight_files;

pub use error::HubError;
pub use init_from::{InitialWeights, settings_from_hub};
