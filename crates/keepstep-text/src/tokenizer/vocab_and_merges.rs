//! GPT-2's older format: `vocab.json` with `merges.txt` next to it, instead of one `tokenizer.json`.

use super::{END_OF_TEXT, Tokenizer, TokenizerError, byte_level, to_json};
use std::path::Path;
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;

/// The file next to `vocab.json`.
const MERGES: &str = "merges.txt";

/// Reports whether a JSON text is only a vocabulary: an object of ids.
pub(super) fn is_vocabulary(json: &str) -> bool {
    serde_json::from_str::<std::collections::BTreeMap<String, u32>>(json).is_ok_and(|vocab| !vocab.is_empty())
}

/// Reads both files into the tokenizer that transformers makes of them.
pub(super) fn read(vocab: &Path) -> Result<Tokenizer, TokenizerError> {
    let place = vocab.display().to_string();
    let merges = vocab.with_file_name(MERGES);
    if let Err(source) = std::fs::metadata(&merges) {
        return Err(TokenizerError::Unreadable { path: merges, source });
    }
    let unusable = |message: String| TokenizerError::Unusable { place: place.clone(), message };
    let (Some(vocab), Some(merges)) = (vocab.to_str(), merges.to_str()) else {
        return Err(unusable("its path is not UTF-8".to_owned()));
    };
    let model = BPE::from_file(vocab, merges).build().map_err(|error| unusable(error.to_string()))?;
    let mut library = byte_level(model, true);
    if library.token_to_id(END_OF_TEXT).is_some() {
        library.add_special_tokens(&[AddedToken::from(END_OF_TEXT, true)]);
    }
    Tokenizer::from_json(&to_json(library), &place)
}
