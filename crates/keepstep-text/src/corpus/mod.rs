//! The corpus: files in a defined order, as one line of tokens that windows are cut from.

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

/// What is being done, for [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Files are looked for, counted in files.
    Listing,
    /// Files are read, counted in bytes.
    Reading,
    /// A BPE is trained, counted in entries of its vocabulary.
    TrainingTokenizer,
    /// Texts become tokens, counted in bytes.
    Tokenizing,
}

/// Is called with what is being done, how much of it is done, and how much there is. It returns whether to go on.
pub type Progress<'a> = dyn FnMut(Stage, u64, u64) -> bool + Send + 'a;

/// The version of the rule that turns files into tokens and windows.
const RULE: u64 = 1;

/// The sequences that training cuts a corpus into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequences {
    /// Tokens of a sequence's inputs; a window holds one more.
    pub block_size: usize,
    /// Sequences per micro-batch.
    pub batch_size: usize,
}

/// A corpus, tokenized.
#[derive(Debug)]
pub struct Corpus {
    tokens: Tokens,
    fingerprint: String,
    block_size: usize,
    num_train_windows: u64,
    num_validation_windows: u64,
}

impl Corpus {
    /// Encodes the files, or finds their tokens in the cache. `note` is called with what people should
    /// know.
    ///
    /// # Errors
    /// A text that the tokenizer cannot take, or a corpus too small for one batch.
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
        let tokens = Tokens::of(files, tokenizer, &fingerprint, cache.as_deref(), progress, note)?;
        let block_size = sequences.block_size;
        let (num_train_windows, num_validation_windows) = windows(settings, sequences, tokens.len())?;
        Ok(Corpus { tokens, fingerprint, block_size, num_train_windows, num_validation_windows })
    }

    /// The sizes of the corpus alone: tokens are counted, and neither kept nor cached.
    ///
    /// # Errors
    /// As [`Corpus::new`].
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

    /// A hash of the contents in their order, the tokenizer, and the version of the rule.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The corpus in numbers.
    pub fn sizes(&self) -> CorpusSizes {
        CorpusSizes {
            fingerprint: self.fingerprint.clone(),
            num_tokens: self.tokens.len(),
            num_train_windows: self.num_train_windows,
            num_validation_windows: self.num_validation_windows,
        }
    }

    /// Tokens of all files.
    pub fn num_tokens(&self) -> u64 {
        self.tokens.len()
    }

    /// Windows to train on: the first ones.
    pub fn num_train_windows(&self) -> u64 {
        self.num_train_windows
    }

    /// Windows held out: the last ones.
    pub fn num_validation_windows(&self) -> u64 {
        self.num_validation_windows
    }

    /// Appends the `block_size + 1` tokens of training window `index`.
    ///
    /// # Errors
    /// The cached tokens cannot be read, or are damaged there.
    pub fn train_window(&self, index: u64, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        self.window(index, out)
    }

    /// Has the disk bring training window `index`, which is wanted soon.
    pub fn will_need(&self, index: u64) {
        self.tokens.will_need(index * self.block_size as u64, self.block_size + 1);
    }

    /// Appends the `block_size + 1` tokens of validation window `index`.
    ///
    /// # Errors
    /// As [`Corpus::train_window`].
    pub fn validation_window(&self, index: u64, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        self.window(self.num_train_windows + index, out)
    }

    fn window(&self, index: u64, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        self.tokens.read(index * self.block_size as u64, self.block_size + 1, out)
    }
}

/// What [`Corpus::measure`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusSizes {
    /// As [`Corpus::fingerprint`].
    pub fingerprint: String,
    /// Tokens of all files.
    pub num_tokens: u64,
    /// Windows to train on.
    pub num_train_windows: u64,
    /// Windows held out.
    pub num_validation_windows: u64,
}

/// Windows to train on, and windows held out, of so many tokens.
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
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where tokens are cached: the config's folder, or the user's; nowhere if it is empty.
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
