//! Models in the layout of the Hugging Face hub: a new run's first weights, and exports.

mod error;
pub mod export;
mod init_from;
pub(crate) mod names;
pub(crate) mod tensors;
pub mod trained;

pub use error::ForeignError;
pub use init_from::{Initial, hub_settings};
