//! The corpus: files in a defined order, tokenized and cut into windows.

mod encode;
mod error;
mod files;
mod index;
mod listing;
mod packages;
mod pattern;
mod pieces;
mod settings;
mod stamp;
mod tokens;
mod unreadable;
mod vocabulary;
mod walk;

pub use error::CorpusError;
pub use files::{SourceFile, collect};
pub use settings::{DataConfig, TokenizerSpec};
pub use tokens::Tokens;
pub use vocabulary::{Vocabulary, train_tokenizer};

use crate::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};
use stamp::Stamp;
use std::path::PathBuf;

/// The work that [`Progress`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Searching for files. Counted in files.
    Listing,
    /// Reading files. Counted in bytes.
    Reading,
    /// Training a BPE. Counted in entries of its vocabulary.
    TrainingTokenizer,
    /// Encoding texts. Counted in bytes.
    Tokenizing,
}

/// A callback that receives the stage, the amount done and the total. It returns whether to continue.
pub type Progress<'a> = dyn FnMut(Stage, u64, u64) -> bool + Send + 'a;

/// The version of the rule that turns files into tokens and windows.
const RULE: u64 = 1;

/// The sizes of the sequences that training reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequences {
    /// The number of input tokens in a sequence. A window holds one more token.
    pub block_size: usize,
    /// The number of sequences in a micro-batch.
    pub batch_size: usize,
}

/// A tokenized corpus.
#[derive(Debug)]
pub struct Corpus {
    tokens: Tokens,
    fingerprint: String,
    block_size: usize,
    num_train_windows: u64,
    num_validation_windows: u64,
}

impl Corpus {
    /// Encodes the files, or finds their tokens in the cache. `note` receives messages for the user.
    ///
    /// # Errors
    /// Fails if the tokenizer cannot encode a text, or if the corpus is too small for one batch.
    pub fn new(
        files: &[SourceFile],
        tokenizer: &Tokenizer,
        settings: &DataConfig,
        sequences: Sequences,
        progress: &mut Progress<'_>,
        note: &mut dyn FnMut(String),
    ) -> Result<Corpus, CorpusError> {
        let fingerprint = fingerprint(files, tokenizer);
        let cache = cache_dir(settings)?;
        let tokens =
            Tokens::open_or_encode(files, tokenizer, &fingerprint, cache.as_deref(), progress, note)?;
        let block_size = sequences.block_size;
        let (num_train_windows, num_validation_windows) = windows(settings, sequences, tokens.len())?;
        Ok(Corpus { tokens, fingerprint, block_size, num_train_windows, num_validation_windows })
    }

    /// Computes only the sizes of the corpus. Tokens are counted, and neither kept nor cached.
    ///
    /// # Errors
    /// Fails for the same reasons as [`Corpus::new`].
    pub fn measure(
        files: &[SourceFile],
        tokenizer: &Tokenizer,
        settings: &DataConfig,
        sequences: Sequences,
        progress: &mut Progress<'_>,
    ) -> Result<CorpusSizes, CorpusError> {
        let fingerprint = fingerprint(files, tokenizer);
        let cache = cache_dir(settings)?;
        let num_tokens = Tokens::count(files, tokenizer, &fingerprint, cache.as_deref(), progress)?;
        let (num_train_windows, num_validation_windows) = windows(settings, sequences, num_tokens)?;
        Ok(CorpusSizes { fingerprint, num_tokens, num_train_windows, num_validation_windows })
    }

    /// Returns a hash of the contents in their order, the tokenizer, and the version of the rule.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Returns the sizes of the corpus.
    pub fn sizes(&self) -> CorpusSizes {
        CorpusSizes {
            fingerprint: self.fingerprint.clone(),
            num_tokens: self.tokens.len(),
            num_train_windows: self.num_train_windows,
            num_validation_windows: self.num_validation_windows,
        }
    }

    /// Returns the number of tokens in all files.
    pub fn num_tokens(&self) -> u64 {
        self.tokens.len()
    }

    /// Returns the number of training windows. They come first.
    pub fn num_train_windows(&self) -> u64 {
        self.num_train_windows
    }

    /// Returns the number of validation windows. They come last.
    pub fn num_validation_windows(&self) -> u64 {
        self.num_validation_windows
    }

    /// Appends the `block_size + 1` tokens of training window `index`.
    ///
    /// # Errors
    /// Fails if the cached tokens cannot be read, or are damaged there.
    pub fn train_window(&self, index: u64, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        self.window(index, out)
    }

    /// Tells the system that training window `index` will be read soon.
    pub fn will_need(&self, index: u64) {
        self.tokens.will_need(index * self.block_size as u64, self.block_size + 1);
    }

    /// Appends the `block_size + 1` tokens of validation window `index`.
    ///
    /// # Errors
    /// Fails for the same reasons as [`Corpus::train_window`].
    pub fn validation_window(&self, index: u64, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        self.window(self.num_train_windows + index, out)
    }

    fn window(&self, index: u64, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        self.tokens.read(index * self.block_size as u64, self.block_size + 1, out)
    }
}

/// The sizes of a corpus, from [`Corpus::measure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusSizes {
    /// The fingerprint, see [`Corpus::fingerprint`].
    pub fingerprint: String,
    /// The number of tokens in all files.
    pub num_tokens: u64,
    /// The number of training windows.
    pub num_train_windows: u64,
    /// The number of validation windows.
    pub num_validation_windows: u64,
}

/// Divides the windows of `num_tokens` tokens into a training part and a validation part.
fn windows(settings: &DataConfig, sequences: Sequences, num_tokens: u64) -> Result<(u64, u64), CorpusError> {
    let Sequences { block_size, batch_size } = sequences;
    let num_windows = num_tokens.saturating_sub(1) / block_size as u64;
    let num_validation_windows = (settings.validation_fraction * num_windows as f64).floor() as u64;
    let num_train_windows = num_windows - num_validation_windows;
    if num_train_windows < batch_size as u64 {
        return Err(CorpusError::TooSmall { num_tokens, num_train_windows, batch_size, block_size });
    }
    Ok((num_train_windows, num_validation_windows))
}

fn fingerprint(files: &[SourceFile], tokenizer: &Tokenizer) -> String {
    let mut hash = Sha256::new();
    hash.update(b"keepstep corpus");
    hash.update(RULE.to_le_bytes());
    hash.update((tokenizer.json().len() as u64).to_le_bytes());
    hash.update(tokenizer.json());
    for file in files {
        hash.update(file.len().to_le_bytes());
        hash.update(file.hash());
    }
    keepstep::hex(&hash.finalize())
}

/// Returns the folder of the token cache: the config's, or the user's. An empty path in the config turns the cache off.
fn cache_dir(data: &DataConfig) -> Result<Option<PathBuf>, CorpusError> {
    if let Some(folder) = &data.cache_dir {
        if folder.is_empty() {
            return Ok(None);
        }
        return Ok(Some(PathBuf::from(keepstep::settings::expand(folder)?)));
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Ok(user.map(|folder| folder.join("keepstep")))
}
