//! A PyTorch loop's checkpoint becomes a run: notebooks, nanoGPT.

mod notebook;
mod optimizer;
mod position;

pub use notebook::{import, is_foreign_checkpoint};
pub use position::Counting;
