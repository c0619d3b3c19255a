//! The errors of a session.

use crate::available_memory::AvailableMemory;
use crate::config::{ConfigError, Precision, Precisions};
use keepstep::settings::UnsetVariable;
use keepstep_model::engine::EngineError;
use keepstep_model::train::state_dict::StateDictError;
use keepstep_numerics::bf16::Support;
use keepstep_text::corpus::CorpusError;
use keepstep_text::tokenizer::TokenizerError;
use std::path::PathBuf;
use thiserror::Error;

/// Why a session could not start or continue. None of these errors changes anything that was saved before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The corpus cannot be used.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The tokenizer cannot be read or trained.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The engine cannot compute.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The run cannot be opened, continued or saved.
    #[error(transparent)]
    Run(#[from] keepstep::run::RunError),
    /// The checkpoint belongs to another model.
    #[error("{path}: the checkpoint cannot be restored")]
    State {
        /// The checkpoint.
        path: PathBuf,
        /// The difference.
        source: StateDictError,
    },
    /// This processor supports none of the allowed precisions.
    #[error(
        "`precision` is {allowed}, and {}", support.lack()
    )]
    Precision {
        /// The precisions that the config allows.
        allowed: Precisions,
        /// The processor's support for bf16.
        support: Support,
    },
    /// This processor does not support the precision of an existing run.
    #[error(
        "{path}: this run computes in {saved}, and {}", support.lack()
    )]
    PrecisionOfRun {
        /// The checkpoint.
        path: PathBuf,
        /// The precision of the checkpoint.
        saved: Precision,
        /// The processor's support for bf16.
        support: Support,
    },
    /// The config does not allow the precision of an existing run.
    #[error("{path}: this run computes in {saved}, and `precision` is {allowed} in the config")]
    OtherPrecision {
        /// The checkpoint.
        path: PathBuf,
        /// The precision of the checkpoint.
        saved: Precision,
        /// The precisions that the config allows.
        allowed: Precisions,
    },
    /// The threads cannot be started.
    #[error("num_threads = {num_threads}: the threads cannot be started")]
    Threads {
        /// The requested number of threads.
        num_threads: usize,
        /// The cause.
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
        /// The bytes that the run needs.
        needed_bytes: u64,
        /// The memory that this process can get.
        available: AvailableMemory,
    },
    /// The system refuses to allocate the memory.
    #[error(
        "this run needs {:.1} MB of memory, and the system refuses to give as much; nothing was written",
        *needed_bytes as f64 / 1e6
    )]
    Allocation {
        /// The bytes that the run needs.
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
        /// The target of the link.
        target: PathBuf,
    },
    /// The process may not write files as large as a checkpoint.
    #[error(
        "a checkpoint of this run has {:.1} MB, and this process may write files of at most {:.1} MB \
         (RLIMIT_FSIZE); nothing was written",
        *checkpoint_bytes as f64 / 1e6, *limit_bytes as f64 / 1e6
    )]
    FileSizeLimit {
        /// The size of one checkpoint.
        checkpoint_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// No branch can be made from the checkpoint.
    #[error("{path}: no run can be made of this checkpoint")]
    Branch {
        /// The checkpoint.
        path: PathBuf,
        /// The cause.
        source: keepstep::branch::BranchError,
    },
    /// The checkpoint to branch from cannot be read.
    #[error("{path}: the checkpoint cannot be used")]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// The cause.
        source: keepstep::store::OpenError,
    },
    /// A branch cannot change this key.
    #[error("`{key}` cannot change in a branch: {why}")]
    Fixed {
        /// The dotted key.
        key: String,
        /// The reason.
        why: &'static str,
    },
    /// A replayed update has another loss or gradient norm than before.
    #[error(
        "the update that ends at global step {global_step} had the {what} {journal} (bits {:016x}) when it was first \
         made and has {now} (bits {:016x}) now ({identical} updates before it are identical): the machine or the \
         program is not what it was",
        journal.to_bits(), now.to_bits()
    )]
    Diverged {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// The global step after the update.
        global_step: u64,
        /// The value in the journal.
        journal: f64,
        /// The value computed now.
        now: f64,
        /// The number of replayed updates before it, all identical.
        identical: u64,
    },
    /// A file of another program cannot be imported.
    #[error("{path}")]
    Hub {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: crate::hub::HubError,
    },
    /// The checkpoint belongs to another corpus.
    #[error("{path}: the corpus is not the one that this run began with: {change}")]
    OtherCorpus {
        /// The checkpoint.
        path: PathBuf,
        /// The change, as far as it is known.
        change: String,
    },
    /// The file to resume from holds only weights.
    #[error(
        "{path}: it holds weights alone, without an optimizer and a position, so no run can continue from it"
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
    /// The tokenizer cannot be written next to the checkpoints.
    #[error("{path}: the tokenizer cannot be written")]
    TokenizerFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl TrainError {
    /// Reports whether this is not an error but a stop, before there was anything to save.
    pub fn is_stop(&self) -> bool {
        matches!(
            self,
            TrainError::Corpus(CorpusError::Stopped) | TrainError::Tokenizer(TokenizerError::Stopped)
        )
    }

    /// Returns the variable of the environment that a path in the config uses, if that is what is missing.
    pub fn unset_variable(&self) -> Option<&UnsetVariable> {
        match self {
            TrainError::Config(ConfigError::Variable(unset))
            | TrainError::Corpus(CorpusError::Config(unset)) => Some(unset),
            _ => None,
        }
    }

    /// Reports whether the config, or a file that it names, must change before the same command can succeed.
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
