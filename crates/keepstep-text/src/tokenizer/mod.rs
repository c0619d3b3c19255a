//! Text to tokens and back, as a `tokenizer.json` of Hugging Face's `tokenizers` describes it.

mod bpe;
mod counts;
mod coverage;
mod file_check;
mod interner;
mod merges;
mod pairs;
mod symbols;
mod train;
mod vocab_and_merges;
mod words;

pub use counts::{Characters, WordCounts};

use merges::Merges;
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Library};
use train::TrainFailure;

/// The name of a tokenizer's file next to a run's checkpoints.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// The token that follows each text of the corpus, if the tokenizer has it.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Why a tokenizer cannot be read or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("{path}: the tokenizer cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a usable tokenizer.
    #[error("{place}: this is not a usable tokenizer: {message}")]
    Unusable {
        /// The file or checkpoint.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// The vocabulary does not have a character of the text.
    #[error(
        "the character {character:?} is not in the vocabulary: with data.tokenizer = \"chars\" it holds only the characters of the training corpus"
    )]
    UnknownCharacter {
        /// The character.
        character: char,
    },
    /// A character that the model would leave out.
    #[error(
        "the character {character:?} is not in the tokenizer's vocabulary, and its BPE model has neither an `unk_token` nor \
         all bytes for `byte_fallback`: the character would be left out of the tokens. Use a tokenizer that has it, set \
         `model.unk_token`, or remove it from the text"
    )]
    LeftOut {
        /// The character, as the text has it.
        character: char,
    },
    /// The library failed to encode or decode.
    #[error("the tokenizer failed: {message}")]
    Failed {
        /// The library's message.
        message: String,
    },
    /// The user asked to stop during training.
    #[error("stopped while training the tokenizer; nothing was written")]
    Stopped,
    /// The corpus has too many different words to train a BPE.
    #[error(
        "`data.tokenizer`: the corpus has more than {most_bytes} bytes of different words, the limit for training a BPE: \
         train it on a part of the corpus and name its tokenizer.json"
    )]
    TooManyWords {
        /// The limit in bytes.
        most_bytes: usize,
    },
    /// The corpus is too small for a vocabulary of this size.
    #[error(
        "`data.tokenizer` is {{ bpe = {wanted} }}, and the corpus is enough for {found} entries only: ask for at most that many"
    )]
    SmallCorpus {
        /// The size that the config asks for.
        wanted: usize,
        /// The size that the corpus is enough for.
        found: usize,
    },
}

/// A tokenizer, together with the complete JSON text that defines it.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    json: String,
    kind: Kind,
    vocab_size: usize,
    end_of_text: Option<u32>,
    notes: Vec<String>,
}

#[derive(Debug, Clone)]
enum Kind {
    Bytes,
    /// The characters in ascending order. A token is an index.
    Chars(Vec<char>),
    /// A faster encoder with the results of the library.
    Merges(Box<Library>, Merges),
    Library(Box<Library>),
    /// The library's, whose model leaves out the characters that it does not know.
    Checked(Box<Library>),
}

impl Tokenizer {
    /// Creates a tokenizer in which each byte is the token of its value.
    pub fn bytes() -> Tokenizer {
        let vocab = bpe::byte_alphabet().into_iter().zip(0..).collect();
        let json = to_json(byte_level(BPE::new(vocab, Vec::new()), false));
        Tokenizer { json, kind: Kind::Bytes, vocab_size: 256, end_of_text: None, notes: Vec::new() }
    }

    /// Creates a tokenizer in which each of these characters is a token, in ascending order.
    pub fn chars(characters: impl IntoIterator<Item = char>) -> Tokenizer {
        let characters: std::collections::BTreeSet<char> = characters.into_iter().collect();
        let characters: Vec<char> = characters.into_iter().collect();
        let vocab = characters.iter().map(char::to_string).zip(0..).collect();
        let mut library = Library::new(BPE::new(vocab, Vec::new()));
        library.with_decoder(Some(Fuse::new()));
        Tokenizer {
            json: to_json(library),
            vocab_size: characters.len(),
            kind: Kind::Chars(characters),
            end_of_text: None,
            notes: Vec::new(),
        }
    }

    /// Trains a byte-level BPE of `vocab_size` entries on words: 256 bytes, the merges, the end-of-text token last.
    ///
    /// The result depends on the words alone, not on threads or the process. `progress` is called with the number of
    /// entries so far and the final number, and returns whether to continue.
    ///
    /// # Errors
    /// Fails if the words are too few for so many entries or too many in all, or if the user asked to stop.
    pub fn train_bpe(
        words: &WordCounts,
        vocab_size: usize,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Tokenizer, TokenizerError> {
        let trained = train::train(words, vocab_size - 1, progress).map_err(|failure| match failure {
            TrainFailure::Stopped => TokenizerError::Stopped,
            TrainFailure::TooManyWords => TokenizerError::TooManyWords { most_bytes: train::MOST_BYTES },
        })?;
        let found = trained.vocab.len() + 1;
        if found < vocab_size {
            return Err(TokenizerError::SmallCorpus { wanted: vocab_size, found });
        }
        let vocab = trained.vocab.into_iter().zip(0..).collect();
        let mut library = byte_level(BPE::new(vocab, trained.merges), true);
        library.add_special_tokens(&[AddedToken::from(END_OF_TEXT, true)]);
        Tokenizer::from_json(&to_json(library), "the trained tokenizer")
    }

    /// Parses the text of a `tokenizer.json`. Errors use `place` as its name.
    ///
    /// # Errors
    /// Fails if the text is not a usable tokenizer.
    pub fn from_json(json: &str, place: &str) -> Result<Tokenizer, TokenizerError> {
        let unusable = |message: String| TokenizerError::Unusable { place: place.to_owned(), message };
        let bytes = Tokenizer::bytes();
        if json == bytes.json {
            return Ok(bytes);
        }
        let mut library: Library = json.parse().map_err(|error| unusable(format!("{error}")))?;
        file_check::check(json).map_err(unusable)?;
        let removed = file_check::remove_call_state(&mut library);
        if !removed.is_empty() {
            let json = library.to_string(false).map_err(|error| unusable(error.to_string()))?;
            let mut tokenizer = Tokenizer::from_json(&json, place)?;
            let note = |what: &&str| format!("{place}: {what}, is not applied: it is the state of a call");
            tokenizer.notes = removed.iter().map(note).collect();
            return Ok(tokenizer);
        }
        let vocab = library.get_vocab(true);
        let single = |text: &String| {
            let mut characters = text.chars();
            characters.next().filter(|_| characters.next().is_none())
        };
        if let Some(characters) = vocab.keys().map(single).collect::<Option<Vec<char>>>() {
            let chars = Tokenizer::chars(characters);
            if chars.json == json {
                return Ok(chars);
            }
        }
        let vocab_size = vocab.values().max().map_or(0, |&largest| largest as usize + 1);
        if vocab_size < 2 {
            return Err(unusable(format!("its vocabulary has {vocab_size} entries")));
        }
        let end_of_text = [END_OF_TEXT, "</s>", "<eos>"].iter().find_map(|name| library.token_to_id(name));
        let library = Box::new(library);
        let kind = match Merges::from_json(json) {
            Some(merges) => Kind::Merges(library, merges),
            None if coverage::may_leave_out(&library) => Kind::Checked(library),
            None => Kind::Library(library),
        };
        Ok(Tokenizer { json: json.to_owned(), kind, vocab_size, end_of_text, notes: Vec::new() })
    }

    /// Reads a `tokenizer.json`, or a `vocab.json` with `merges.txt` next to it.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is not a usable tokenizer.
    pub fn from_file(path: &Path) -> Result<Tokenizer, TokenizerError> {
        let json = std::fs::read_to_string(path)
            .map_err(|source| TokenizerError::Unreadable { path: path.to_path_buf(), source })?;
        if vocab_and_merges::is_vocabulary(&json) {
            return vocab_and_merges::read(path);
        }
        Tokenizer::from_json(&json, &path.display().to_string())
    }

    /// Returns messages for the user about parts of the file that are not applied.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the whole tokenizer as the text of a `tokenizer.json`, without the parts that are not applied to a
    /// corpus.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Returns the largest token plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Returns the token that follows each text of a corpus.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// Returns the text of a token in the vocabulary.
    pub fn token(&self, token: u32) -> Option<String> {
        match &self.kind {
            Kind::Bytes => bpe::byte_alphabet().get(token as usize).cloned(),
            Kind::Chars(characters) => characters.get(token as usize).map(char::to_string),
            Kind::Merges(library, _) | Kind::Library(library) | Kind::Checked(library) => {
                library.id_to_token(token)
            }
        }
    }

    /// Whether earlier versions could leave characters of a text out: their cached tokens are not trusted.
    pub(crate) fn is_checked(&self) -> bool {
        matches!(self.kind, Kind::Checked(_))
    }

    /// Encodes a text. No special tokens are added, and no character is left out.
    ///
    /// # Errors
    /// Fails if the vocabulary does not have a character.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match &self.kind {
            Kind::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Kind::Chars(characters) => {
                // Nearly all characters of a text are below 256.
                let mut low = [None; 256];
                for (&character, token) in characters.iter().zip(0_u32..) {
                    if let Some(place) = low.get_mut(character as usize) {
                        *place = Some(token);
                    }
                }
                let token = |character: char| match low.get(character as usize) {
                    Some(found) => *found,
                    None => characters.binary_search(&character).ok().map(|token| token as u32),
                };
                let known =
                    |character| token(character).ok_or(TokenizerError::UnknownCharacter { character });
                text.chars().map(known).collect()
            }
            Kind::Merges(_, merges) => Ok(merges.encode(text)),
            Kind::Checked(library) => coverage::encode(library, text),
            Kind::Library(library) => {
                let encoding = library
                    .encode_fast(text, false)
                    .map_err(|error| TokenizerError::Failed { message: error.to_string() })?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// Decodes tokens. Bytes that are not UTF-8 become the replacement character.
    ///
    /// # Errors
    /// Fails if the library fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        match &self.kind {
            Kind::Bytes => {
                let bytes: Vec<u8> = tokens.iter().map(|&token| token as u8).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Kind::Chars(characters) => {
                Ok(tokens.iter().filter_map(|&token| characters.get(token as usize)).collect())
            }
            Kind::Merges(library, _) | Kind::Library(library) | Kind::Checked(library) => library
                .decode(tokens, true)
                .map_err(|error| TokenizerError::Failed { message: error.to_string() }),
        }
    }
}

fn byte_level(model: BPE, use_regex: bool) -> Library {
    let mut library = Library::new(model);
    library.with_pre_tokenizer(Some(ByteLevel::new(false, false, use_regex)));
    library.with_decoder(Some(ByteLevel::new(false, false, use_regex)));
    library
}

fn to_json(library: Library) -> String {
    library.to_string(false).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "The run goes on, the run goes on; über alles 日本 \n\n the end\t.";

    fn check(tokenizer: &Tokenizer) {
        let tokens = tokenizer.encode(TEXT).expect("tokens");
        assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.vocab_size()));
        assert_eq!(tokenizer.decode(&tokens).expect("text"), TEXT);
        // A checkpoint carries the JSON text, which must give the same tokenizer.
        let again = Tokenizer::from_json(tokenizer.json(), "a test").expect("a tokenizer");
        assert_eq!(again.encode(TEXT).expect("tokens"), tokens);
        assert_eq!(again.json(), tokenizer.json());
        assert_eq!(
            (again.vocab_size(), again.end_of_text()),
            (tokenizer.vocab_size(), tokenizer.end_of_text())
        );
        // The library itself must read the JSON text, and give the same tokens as the faster encoders.
        let library: Library = tokenizer.json().parse().expect("the library reads it");
        assert_eq!(library.encode(TEXT, false).expect("tokens").get_ids(), tokens);
        assert_eq!(library.decode(&tokens, true).expect("text"), TEXT);
    }

    #[test]
    fn bytes_and_characters() {
        check(&Tokenizer::bytes());
        let chars = Tokenizer::chars(TEXT.chars());
        check(&chars);
        let error = chars.encode("€").expect_err("it is not in the text").to_string();
        assert!(error.contains('€'), "{error}");
    }

    #[test]
    fn trained_bpe() {
        let tokenizer = Tokenizer::train_bpe(&WordCounts::from_texts(&[TEXT, TEXT]), 270, &mut |_, _| true)
            .expect("a tokenizer");
        check(&tokenizer);
        assert_eq!(tokenizer.vocab_size(), 270);
        assert_eq!(tokenizer.end_of_text(), Some(269));
        assert!(tokenizer.encode(TEXT).expect("tokens").len() < TEXT.len());
        assert!(matches!(tokenizer.kind, Kind::Merges(..)));
        let error = Tokenizer::train_bpe(&WordCounts::from_texts(&["ab"]), 300, &mut |_, _| true);
        let error = error.expect_err("too few").to_string();
        assert!(error.contains("257"), "{error}");
    }

    /// A tokenizer that transformers saved after a call with truncation and padding.
    #[test]
    fn the_state_of_a_call_is_not_applied() {
        let words = WordCounts::from_texts(&[TEXT, TEXT]);
        let trained = Tokenizer::train_bpe(&words, 270, &mut |_, _| true).expect("a tokenizer");
        let truncation = serde_json::json!({
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
        });
        let padding = serde_json::json!({
            "strategy": { "Fixed": 512 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 269,
            "pad_type_id": 0, "pad_token": "<|endoftext|>"
        });
        for clean in [trained, Tokenizer::bytes(), Tokenizer::chars(TEXT.chars())] {
            for (keys, num_notes) in
                [(&["truncation"][..], 1), (&["padding"], 1), (&["truncation", "padding"], 2)]
            {
                let mut json: serde_json::Value = serde_json::from_str(clean.json()).expect("JSON");
                for &key in keys {
                    json[key] = if key == "padding" { padding.clone() } else { truncation.clone() };
                }
                let tokenizer =
                    Tokenizer::from_json(&json.to_string(), "a/tokenizer.json").expect("a tokenizer");
                assert_eq!(tokenizer.encode(TEXT).expect("tokens"), clean.encode(TEXT).expect("tokens"));
                // The fingerprint of a corpus is the same as before the call.
                assert_eq!(tokenizer.json(), clean.json());
                let notes = tokenizer.notes();
                assert!(notes.len() == num_notes && notes[0].contains("a/tokenizer.json"), "{notes:?}");
            }
        }
    }

    #[test]
    fn a_file_whose_tokens_are_not_defined_is_refused() {
        let words = WordCounts::from_texts(&[TEXT, TEXT]);
        let trained = Tokenizer::train_bpe(&words, 270, &mut |_, _| true).expect("a tokenizer");
        let changed = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut json: serde_json::Value = serde_json::from_str(trained.json()).expect("JSON");
            change(&mut json);
            Tokenizer::from_json(&json.to_string(), "a test")
        };
        let template = |single: serde_json::Value| {
            serde_json::json!({
                "type": "TemplateProcessing", "single": single, "pair": [],
                "special_tokens": { "<|endoftext|>": { "id": "<|endoftext|>", "ids": [269], "tokens": ["<|endoftext|>"] } }
            })
        };
        let text = serde_json::json!({ "Sequence": { "id": "A", "type_id": 0 } });
        let end = serde_json::json!({ "SpecialToken": { "id": "<|endoftext|>", "type_id": 0 } });
        let error = changed(&|json| json["model"]["dropout"] = 0.1.into()).expect_err("random").to_string();
        assert!(error.contains("`model.dropout` is 0.1"), "{error}");
        let twice = template(serde_json::json!([text, text]));
        let sequence = serde_json::json!({ "type": "Sequence", "processors": [twice] });
        for processor in [&twice, &sequence] {
            let error =
                changed(&|json| json["post_processor"] = processor.clone()).expect_err("twice").to_string();
            assert!(error.contains("`post_processor`"), "{error}");
        }
        let once = changed(&|json| json["post_processor"] = template(serde_json::json!([end, text, end])));
        let dropout = changed(&|json| json["model"]["dropout"] = 0.0.into());
        for tokenizer in [once, dropout] {
            let tokenizer = tokenizer.expect("a tokenizer");
            assert_eq!(tokenizer.encode(TEXT).expect("tokens"), trained.encode(TEXT).expect("tokens"));
        }
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        for json in ["", "{}", "[1]", "{\"model\":{}}"] {
            let error = Tokenizer::from_json(json, "the place").expect_err("no tokenizer").to_string();
            assert!(error.starts_with("the place"), "{error}");
        }
    }
}
