//! Imports checkpoints of PyTorch training loops as runs: notebooks and nanoGPT.

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
