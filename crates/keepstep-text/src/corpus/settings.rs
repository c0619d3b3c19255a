//! The settings of a corpus.

use keepstep::settings;
use serde::{Deserialize, Serialize};

settings! {
    /// The corpus.
    pub struct DataConfig {
        /// Files or globs; `~` and `${VAR:-default}` expand.
        runtime paths: Vec<String> = Vec::new(),
        /// Whether unreadable files and folders that a glob matches are skipped.
        runtime skip_unreadable: bool = false,
        /// Crates whose Rust sources are read from cargo's folder, as name-version.
        runtime cargo_packages: Vec<String> = Vec::new(),
        /// The fraction of the windows, from the end, that is held out for validation.
        result validation_fraction: f64 = 0.05,
        /// The tokenizer.
        result tokenizer: TokenizerSpec = TokenizerSpec::Bytes,
        /// Folder of the token cache. The default is the user's cache folder.
        runtime cache_dir: Option<String> = None,
    }
}

/// The choice of tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSpec {
    /// Each byte is a token.
    Bytes,
    /// Each character of the corpus is a token.
    Chars,
    /// Byte-level BPE with this many entries, trained on the corpus.
    Bpe(usize),
    /// A `tokenizer.json`, or a checkpoint that contains one.
    File(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bpe {
    bpe: usize,
}

impl Serialize for TokenizerSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TokenizerSpec::Bytes => serializer.serialize_str("bytes"),
            TokenizerSpec::Chars => serializer.serialize_str("chars"),
            TokenizerSpec::Bpe(bpe) => Bpe { bpe: *bpe }.serialize(serializer),
            // The path of the file does not affect results. Its content does, and the checkpoint contains it.
            TokenizerSpec::File(_) => serializer.serialize_str("tokenizer.json"),
        }
    }
}

impl<'de> Deserialize<'de> for TokenizerSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<TokenizerSpec, D::Error> {
        const EXPECTED: &str = "expected \"bytes\", \"chars\", { bpe = SIZE } or the path of a tokenizer.json (ending in .json) or of a checkpoint (.pt)";
        let unexpected = || serde::de::Error::custom(EXPECTED);
        match toml::Value::deserialize(deserializer).map_err(|_| unexpected())? {
            toml::Value::String(text) => match text.as_str() {
                "bytes" => Ok(TokenizerSpec::Bytes),
                "chars" => Ok(TokenizerSpec::Chars),
                path if path.ends_with(".json") || path.ends_with(".pt") => Ok(TokenizerSpec::File(text)),
                _ => Err(unexpected()),
            },
            table @ toml::Value::Table(_) => {
                table.try_into::<Bpe>().map(|bpe| TokenizerSpec::Bpe(bpe.bpe)).map_err(|_| unexpected())
            }
            _ => Err(unexpected()),
        }
    }
}
