//! What ends a session before its time.

use super::available_memory::AvailableMemory;
use crate::config::{ConfigError, Precision, Precisions};
use keepstep_model::engine::EngineError;
use keepstep_model::train::state_dict::StateDictError;
use keepstep_numerics::bf16::Support;
use keepstep_text::corpus::CorpusError;
use keepstep_text::tokenizer::TokenizerError;
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
    /// The engine cannot compute.
    #[error(transparent)]
    Engine(#[from] EngineError),
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
    /// This processor can compute in none of the allowed precisions.
    #[error(
        "`precision` is {allowed}, and {}", support.lack()
    )]
    Precision {
        /// What the config allows.
        allowed: Precisions,
        /// What the processor has.
        support: Support,
    },
    /// This processor cannot compute in the precision of a run that has begun.
    #[error(
        "{path}: this run computes in {saved}, and {}", support.lack()
    )]
    PrecisionOfRun {
        /// The checkpoint.
        path: PathBuf,
        /// Its precision.
        saved: Precision,
        /// What the processor has.
        support: Support,
    },
    /// The config does not allow the precision of a run that has begun.
    #[error("{path}: this run computes in {saved}, and `precision` is {allowed} in the config")]
    OtherPrecision {
        /// The checkpoint.
        path: PathBuf,
        /// Its precision.
        saved: Precision,
        /// What the config allows.
        allowed: Precisions,
    },
    /// The threads cannot be started.
    #[error("num_threads = {num_threads}: the threads cannot be started")]
    Threads {
        /// How many were asked for.
        num_threads: usize,
        /// Why not.
        source: rayon::ThreadPoolBuildError,
    },
    /// The run needs more memory than this process can get.
    #[error(
        "this run needs {:.1} MB of memory, and {:.1} MB are available ({:.1} MB with swap), because of {}; \
         nothing was written",
        *needed_bytes as f64 / 1e6, available.bytes as f64 / 1e6, available.with_swap_bytes as f64 / 1e6,
        available.limited_by
    )]
    Memory {
        /// What the run needs.
        needed_bytes: u64,
        /// What this process can get.
        available: AvailableMemory,
    },
    /// The system refuses the memory.
    #[error(
        "this run needs {:.1} MB of memory, and the system refuses to give as much; nothing was written",
        *needed_bytes as f64 / 1e6
    )]
    Allocation {
        /// What the run needs.
        needed_bytes: u64,
    },
    /// The output folder lies behind a link whose target does not exist.
    #[error(
        "`output_dir` is {folder}, but {} is a link to {}, which does not exist",
        link.display(), target.display()
    )]
    OutputLink {
        /// The output folder.
        folder: PathBuf,
        /// The link: the folder, or one of its parents.
        link: PathBuf,
        /// What it points to.
        target: PathBuf,
    },
    /// The process may not write files as large as a checkpoint.
    #[error(
        "a checkpoint of this run has {:.1} MB, and this process may write files of at most {:.1} MB \
         (the limit RLIMIT_FSIZE, which `ulimit -f` shows and raises); nothing was written",
        *checkpoint_bytes as f64 / 1e6, *limit_bytes as f64 / 1e6
    )]
    FileSizeLimit {
        /// The size of one checkpoint.
        checkpoint_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A checkpoint cannot become a new run.
    #[error("{path}: no run can be made of this checkpoint")]
    Branch {
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        source: keepstep::branch::BranchError,
    },
    /// A checkpoint to branch from that cannot be read.
    #[error("{path}: the checkpoint cannot be used")]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        source: keepstep::store::OpenError,
    },
    /// A change that a branch cannot make.
    #[error("`{key}` cannot change in a branch: {why}")]
    Fixed {
        /// The key, dotted.
        key: String,
        /// Why not.
        why: &'static str,
    },
    /// An update that was made before has another loss or gradient now.
    #[error(
        "the update that ends at global step {global_step} had the {what} {journal} (bits {:016x}) when it was first \
         made and has {now} (bits {:016x}) now ({identical} updates before it are identical): the machine or the \
         program is not what it was",
        journal.to_bits(), now.to_bits()
    )]
    Diverged {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// After the update.
        global_step: u64,
        /// What the journal has.
        journal: f64,
        /// What was computed now.
        now: f64,
        /// Updates made again before it, all identical.
        identical: u64,
    },
    /// A file of others that cannot be taken over.
    #[error("{path}")]
    Hub {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: crate::hub::HubError,
    },
    /// The checkpoint belongs to another corpus.
    #[error("{path}: the corpus is not the one that this run began with: {change}")]
    OtherCorpus {
        /// The checkpoint.
        path: PathBuf,
        /// What has changed, as far as it can be told.
        change: String,
    },
    /// A file to resume from that holds weights alone.
    #[error(
        "{path}: it holds weights alone, without an optimizer and a position, so no run can go on from it"
    )]
    WeightsAlone {
        /// The file, or the folder.
        path: PathBuf,
    },
    /// The run's folder has another tokenizer.
    #[error("{path}: this is another tokenizer than the run's, and keepstep never replaces it")]
    OtherTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// The tokenizer cannot be put beside the checkpoints.
    #[error("{path}: the tokenizer cannot be written")]
    TokenizerFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl TrainError {
    /// Whether it is no error at all: a stop was asked for before there was anything to save.
    pub fn is_stop(&self) -> bool {
        matches!(
            self,
            TrainError::Corpus(CorpusError::Stopped) | TrainError::Tokenizer(TokenizerError::Stopped)
        )
    }

    /// Whether the config, or what it names, must change before the same command can succeed.
    pub fn is_usage(&self) -> bool {
        match self {
            TrainError::Config(_)
            | TrainError::Tokenizer(_)
            | TrainError::Threads { .. }
            | TrainError::OutputLink { .. }
            | TrainError::State { .. }
            | TrainError::Hub { .. }
            | TrainError::WeightsAlone { .. }
            | TrainError::OtherCorpus { .. }
            | TrainError::Precision { .. }
            | TrainError::PrecisionOfRun { .. }
            | TrainError::OtherPrecision { .. }
            | TrainError::OtherTokenizer { .. }
            | TrainError::Fixed { .. } => true,
            TrainError::Run(error) => error.is_incompatible(),
            TrainError::Corpus(error) => error.is_usage(),
            _ => false,
        }
    }
}
