//! Models and checkpoints that others wrote: PyTorch's notebooks, nanoGPT, the Hugging Face hub.

mod error;
mod hub;
mod import;
mod optimizer;
mod position;
mod tensors;
mod weights;

pub use error::ForeignError;
pub use hub::{Initial, hub_settings};
pub use import::{import, is_foreign_checkpoint};
pub use position::Counting;
