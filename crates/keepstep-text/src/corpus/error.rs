//! The errors of a corpus.

use crate::tokenizer::TokenizerError;
use keepstep::settings::UnsetVariable;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a corpus cannot be used. Nothing was written to the run's folder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// A path in the config uses an unset variable.
    #[error(transparent)]
    Config(#[from] UnsetVariable),
    /// A pattern is malformed.
    #[error("`data.paths`: {pattern} is not a valid pattern: {message}")]
    Pattern {
        /// The pattern in the config.
        pattern: String,
        /// What is wrong with it.
        message: String,
    },
    /// A path does not exist, or a pattern matches nothing.
    #[error("`data.paths`: {pattern}: there is no such file")]
    Missing {
        /// The path or pattern in the config.
        pattern: String,
    },
    /// A path is a folder, where a file is needed.
    #[error("`data.paths`: {pattern} is a folder: write {pattern}/**/*.txt for the text files in it")]
    Folder {
        /// The path in the config.
        pattern: String,
    },
    /// A file cannot be read.
    #[error("{path}: the file cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A path that a pattern may match cannot be read.
    #[error("{path}: this cannot be read, and a pattern of `data.paths` needs it")]
    Inaccessible {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is empty.
    #[error("{path}: the file is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file is not UTF-8 text.
    #[error("{path}: the file is not UTF-8 (the first invalid byte is number {at})")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The index of the first invalid byte, from 0.
        at: u64,
    },
    /// The sources of a crate are not on the disk: cargo must fetch them first.
    #[error("`data.cargo_packages`: {package} is not in {folder}")]
    Package {
        /// The crate as name-version.
        package: String,
        /// The folder that was searched.
        folder: PathBuf,
    },
    /// The tokenizer cannot encode a text.
    #[error("{path}: the file cannot be tokenized")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: TokenizerError,
    },
    /// The corpus is too small, or otherwise unusable, for training the tokenizer.
    #[error(transparent)]
    Training(#[from] TokenizerError),
    /// A file has changed since it was hashed.
    #[error("{path}: the file changed while it was read: start again when nothing writes to it")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The cached tokens cannot be read.
    #[error("{path}: the cached tokens cannot be read")]
    CacheUnreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The cached tokens are damaged.
    #[error(
        "{path}: the cached tokens are damaged; the file has been removed, and the same command creates it again and continues"
    )]
    CacheDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The user asked to stop before all text was tokenized.
    #[error("stopped while tokenizing; nothing was written")]
    Stopped,
    /// The corpus has too few windows for one batch.
    #[error(
        "the corpus has {num_tokens} tokens, which make {num_train_windows} training windows of model.block_size = \
         {block_size}, and batch_size = {batch_size} needs at least that many"
    )]
    TooSmall {
        /// The number of tokens in all files.
        num_tokens: u64,
        /// The number of windows in the training part.
        num_train_windows: u64,
        /// The number of windows in a batch.
        batch_size: usize,
        /// The number of tokens in a window's inputs.
        block_size: usize,
    },
}

impl CorpusError {
    /// Reports whether the config, or a file that it names, must change before the same command can succeed.
    pub fn is_usage(&self) -> bool {
        !matches!(
            self,
            CorpusError::Changed { .. }
                | CorpusError::CacheUnreadable { .. }
                | CorpusError::CacheDamaged { .. }
        )
    }
}
