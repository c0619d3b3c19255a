//! What ends a session before its time.

use super::state_dict::StateDictError;
use crate::config::ConfigError;
use crate::corpus::CorpusError;
use crate::tokenizer::TokenizerError;
use std::path::PathBuf;
use thiserror::Error;

/// A session that could not start or go on. Nothing that was saved is touched by any of them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The corpus cannot be used.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The tokenizer cannot be had.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The run cannot be opened, continued or saved.
    #[error(transparent)]
    Run(#[from] keepstep::run::RunError),
    /// The checkpoint is of another model.
    #[error("{path}: the checkpoint cannot be restored")]
    State {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit.
        source: StateDictError,
    },
    /// The threads cannot be started.
    #[error("num_threads = {num_threads}: the threads cannot be started")]
    Threads {
        /// How many were asked for.
        num_threads: usize,
        /// Why not.
        source: rayon::ThreadPoolBuildError,
    },
    /// A stop was asked for before the first update.
    #[error("stopped before anything was trained; run the same command again")]
    StoppedEarly,
}
