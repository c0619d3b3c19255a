//! Why a model or a checkpoint of another program cannot be used.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A file of another program that cannot be used. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The file is damaged, or is not a `.pt` file.
    #[error(transparent)]
    Read(#[from] keepstep_pt::ReadError),
    /// A file that cannot be read.
    #[error("{path}: the file cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file's content is not what it must be.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file that Git LFS has not fetched.
    #[error(
        "{path}: this is a Git LFS pointer, not the file itself; fetch the content, for example with `git lfs pull` in \
         its repository"
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A key that is missing.
    #[error(
        "the checkpoint has no `{key}`; it needs epoch, step, global_step, model_state_dict and optimizer_state_dict, or nanoGPT's iter_num, model and \
         optimizer"
    )]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// Something that keepstep's model or optimizer has no place for.
    #[error("it does not fit keepstep's model or optimizer: {}", problems.join("; "))]
    Unmapped {
        /// Each with what was found and what was expected.
        problems: Vec<String>,
    },
    /// The numbers can be read in several ways.
    #[error(
        "epoch {epoch}, step {step} and global step {global_step} can be read in more than one way with \
         {steps_per_epoch} steps per epoch and gradient_accumulation_steps = {gradient_accumulation_steps}: epochs may begin \
         at 0 or 1, and `step` may count completed micro-batches or be the index of the last one"
    )]
    Ambiguous {
        /// As the file says.
        epoch: i64,
        /// As the file says.
        step: i64,
        /// As the file says.
        global_step: i64,
        /// Of the config and corpus.
        steps_per_epoch: u64,
        /// Of the config.
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
        /// Completed micro-batches.
        step: u64,
        /// Of the config.
        gradient_accumulation_steps: u64,
    },
    /// The position lies outside the run.
    #[error(
        "epoch {epoch}, step {step} lies outside the run: config and corpus make epochs of {steps_per_epoch} steps. The \
         corpus, batch_size and model.block_size must be those of the file"
    )]
    Outside {
        /// As the file says.
        epoch: i64,
        /// As the file says.
        step: i64,
        /// Of the config and corpus.
        steps_per_epoch: u64,
    },
}
