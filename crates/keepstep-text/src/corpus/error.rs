//! What makes a corpus unusable.

use crate::tokenizer::TokenizerError;
use keepstep::settings::UnsetVariable;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A corpus that cannot be used. Nothing was written to the run's folder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// A path of the config cannot be expanded.
    #[error(transparent)]
    Config(#[from] UnsetVariable),
    /// A pattern that is none.
    #[error("`data.paths`: {pattern} is no pattern: {message}")]
    Pattern {
        /// As it stands in the config.
        pattern: String,
        /// What is wrong with it.
        message: String,
    },
    /// A pattern or path that names nothing.
    #[error("`data.paths`: {pattern}: there is no such file")]
    Missing {
        /// As it stands in the config.
        pattern: String,
    },
    /// A folder where files are wanted.
    #[error("`data.paths`: {pattern} is a folder: write {pattern}/**/*.txt for the text files in it")]
    Folder {
        /// As it stands in the config.
        pattern: String,
    },
    /// A file that cannot be read.
    #[error("{path}: the file cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that a pattern may need and that cannot be looked at or read.
    #[error(
        "{path}: this cannot be read, and a pattern of `data.paths` needs it: mend or remove it, or leave out what cannot be \
         read with data.skip_unreadable = true"
    )]
    Inaccessible {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file without content.
    #[error("{path}: the file is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file that is no text.
    #[error("{path}: the file is not UTF-8 (the first byte that is not is number {at})")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where, counted from 0.
        at: u64,
    },
    /// Sources that cargo has not fetched.
    #[error(
        "`data.cargo_packages`: {package} is not in {folder}: run `cargo fetch` where its Cargo.lock lies"
    )]
    Package {
        /// The crate as name-version.
        package: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A text that the tokenizer cannot take.
    #[error("{path}: the file cannot be tokenized")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TokenizerError,
    },
    /// The corpus has not enough for the tokenizer.
    #[error(transparent)]
    Training(#[from] TokenizerError),
    /// A file that is another than it was when it was hashed.
    #[error("{path}: the file changed while it was read: start again when nothing writes to it")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Cached tokens that cannot be read.
    #[error("{path}: the cached tokens cannot be read")]
    CacheUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Cached tokens that are damaged.
    #[error(
        "{path}: the cached tokens are damaged; the file is removed, and the same command makes it anew and goes on"
    )]
    CacheDamaged {
        /// The file.
        path: PathBuf,
    },
    /// A stop was asked for before all was tokenized.
    #[error("stopped while tokenizing; nothing was written")]
    Stopped,
    /// Too few windows.
    #[error(
        "the corpus has {num_tokens} tokens, which make {num_train_windows} training windows of model.block_size =          {block_size}, and batch_size = {batch_size} needs at least that many: use more text, a smaller          model.block_size or a smaller batch_size"
    )]
    TooSmall {
        /// Tokens of all files.
        num_tokens: u64,
        /// Windows without the validation part.
        num_train_windows: u64,
        /// Windows of one batch.
        batch_size: usize,
        /// Tokens of one window.
        block_size: usize,
    },
}

impl CorpusError {
    /// Whether the config, or what it names, must change before the same command can succeed.
    pub fn is_usage(&self) -> bool {
        !matches!(
            self,
            CorpusError::Changed { .. }
                | CorpusError::CacheUnreadable { .. }
                | CorpusError::CacheDamaged { .. }
        )
    }
}
