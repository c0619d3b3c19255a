//! A PyTorch loop's checkpoint becomes a run: notebooks, nanoGPT.

mod adamw;
mod nanogpt;
mod notebook;
mod optimizer;
mod param_groups;
mod position;
pub(crate) mod rates;
pub(crate) mod resume;
mod stated;

pub use notebook::{import, is_notebook_checkpoint};
pub use position::StepConvention;
