//! Corpora and tokenizers. Files in a defined order become the same tokens every time.
//!
//! - [`corpus`]: the files of a corpus, its cached tokens, and the windows that training reads.
//! - [`tokenizer`]: text to tokens and back. Reads every `tokenizer.json`, and trains byte-level BPE.
//!
//! The same files and settings give the same tokens on every machine, with any number of threads. The fingerprint of a
//! corpus is a hash of the contents in their order, the tokenizer, and the version of the rule that makes windows.
//!
//! # Example
//! ```
//! use keepstep_text::corpus::{Corpus, DataConfig, Sequences, Vocabulary, collect, train_tokenizer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! std::fs::write(folder.path().join("a.txt"), "the boat waits by the old bridge\n".repeat(20))?;
//! std::fs::write(folder.path().join("b.txt"), "the rain goes on over the hills\n".repeat(20))?;
//!
//! let data = DataConfig {
//!     paths: vec![format!("{}/*.txt", folder.path().display())],
//!     cache_dir: Some(String::new()), // no cache
//!     validation_fraction: 0.1,
//!     ..DataConfig::default()
//! };
//! let mut go_on = |_stage, _done, _total| true;
//! let mut note = |text: String| println!("{text}");
//! let files = collect(&data, &mut go_on, &mut note)?;
//! let tokenizer = train_tokenizer(&files, Vocabulary::Bpe(280), &data, &mut go_on)?;
//!
//! let sequences = Sequences { block_size: 16, batch_size: 2 };
//! let corpus = Corpus::new(&files, &tokenizer, &data, sequences, &mut go_on, &mut note)?;
//! let mut window = Vec::new();
//! corpus.train_window(0, &mut window)?;
//! assert_eq!(window.len(), 17); // 16 inputs, each with the token that follows it
//! assert!(tokenizer.decode(&window)?.starts_with("the boat waits"));
//! # Ok(())
//! # }
//! ```

pub mod corpus;
pub mod tokenizer;

/// Runs the example of the README as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
