//! Errors about models and checkpoints of other programs.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a file of another program cannot be used. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The file is damaged, or is not a `.pt` file.
    #[error(transparent)]
    Read(#[from] keepstep_pt::ReadError),
    /// The file cannot be read.
    #[error("{path}: the file cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The content of the file is wrong.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The file is a Git LFS pointer: its content was not fetched.
    #[error(
        "{path}: this is a Git LFS pointer, not the file itself; fetch the content, for example with `git lfs pull` in \
         its repository"
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The checkpoint does not have a required key.
    #[error(
        "the checkpoint has no `{key}`; it needs epoch, step, global_step, model_state_dict and optimizer_state_dict, or nanoGPT's iter_num, model and \
         optimizer"
    )]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// The file has something that does not fit keepstep's model or optimizer.
    #[error("it does not fit keepstep's model or optimizer: {}", problems.join("; "))]
    Unmapped {
        /// The problems, each with the value found and the value expected.
        problems: Vec<String>,
    },
    /// The epoch and step can be read in more than one way.
    #[error(
        "epoch {epoch}, step {step} and global step {global_step} can be read in more than one way with \
         {steps_per_epoch} steps per epoch and gradient_accumulation_steps = {gradient_accumulation_steps}: epochs may begin \
         at 0 or 1, and `step` may count completed micro-batches or be the index of the last one"
    )]
    Ambiguous {
        /// The epoch in the file.
        epoch: i64,
        /// The step in the file.
        step: i64,
        /// The global step in the file.
        global_step: i64,
        /// Micro-batches per epoch, from the config and the corpus.
        steps_per_epoch: u64,
        /// Micro-batches per update, from the config.
        gradient_accumulation_steps: u64,
    },
    /// The position lies inside an accumulation window.
    #[error(
        "step {step} of epoch {epoch} lies inside an accumulation window of {gradient_accumulation_steps} \
         micro-batches, whose gradients the file does not hold"
    )]
    InsideWindow {
        /// The epoch.
        epoch: u64,
        /// The number of completed micro-batches.
        step: u64,
        /// Micro-batches per update, from the config.
        gradient_accumulation_steps: u64,
    },
    /// The position lies outside the run.
    #[error(
        "epoch {epoch}, step {step} lies outside the run: config and corpus make epochs of {steps_per_epoch} steps. The \
         corpus, batch_size and model.block_size must be those of the file"
    )]
    Outside {
        /// The epoch in the file.
        epoch: i64,
        /// The step in the file.
        step: i64,
        /// Micro-batches per epoch, from the config and the corpus.
        steps_per_epoch: u64,
    },
}
