//! Characters that a BPE model would leave out of the tokens without a word.
//!
//! A BPE model looks up every character of a word. One that the vocabulary lacks becomes the tokens of its bytes
//! (`byte_fallback`) or the unknown token (`unk_token`); without either, the library leaves it out. Here such a
//! character is an error. The library's other models (WordPiece, WordLevel, Unigram) fail by themselves.

use super::TokenizerError;
use super::bpe::byte_alphabet;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizer::Range;
use tokenizers::{
    Model, ModelWrapper, NormalizedString, OffsetType, PreTokenizer, PreTokenizerWrapper,
    Tokenizer as Library,
};

/// Whether there are texts of which the model leaves something out.
pub(super) fn may_leave_out(library: &Library) -> bool {
    let ModelWrapper::BPE(model) = library.get_model() else { return false };
    let has = |token: &str| model.token_to_id(token).is_some();
    let has_bytes = model.byte_fallback && (0..=u8::MAX).all(|byte| has(&byte_token(byte)));
    let is_plain = model.continuing_subword_prefix.is_none() && model.end_of_word_suffix.is_none();
    let is_byte_level = is_plain
        && library.get_pre_tokenizer().is_some_and(ends_with_bytes)
        && byte_alphabet().iter().all(|character| has(character));
    model.unk_token.is_none() && !has_bytes && !is_byte_level
}

/// Whether the model is given nothing but the characters that stand for bytes.
fn ends_with_bytes(splitter: &PreTokenizerWrapper) -> bool {
    match splitter {
        PreTokenizerWrapper::ByteLevel(_) => true,
        PreTokenizerWrapper::Sequence(all) => all.as_ref().last().is_some_and(ends_with_bytes),
        _ => false,
    }
}

/// The tokens that the library makes of a text, in the library's own steps, or the first character that is left out.
pub(super) fn encode(library: &Library, text: &str) -> Result<Vec<u32>, TokenizerError> {
    let failed = |error: tokenizers::Error| match error.downcast::<TokenizerError>() {
        Ok(error) => *error,
        Err(error) => TokenizerError::Failed { message: error.to_string() },
    };
    let steps = || {
        let mut parts = library.get_added_vocabulary().extract_and_normalize(library.get_normalizer(), text);
        if let Some(splitter) = library.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut parts)?;
        }
        parts.tokenize(|part| {
            if let ModelWrapper::BPE(model) = library.get_model()
                && let Some(character) = left_out(model, part)
            {
                return Err(Box::new(TokenizerError::LeftOut { character }));
            }
            library.get_model().tokenize(part.get())
        })?;
        library.post_process(parts.into_encoding(None, 0, OffsetType::None)?, None, false)
    };
    Ok(steps().map_err(failed)?.get_ids().to_vec())
}

/// The first character of a word that the model leaves out, as the text has it.
fn left_out(model: &BPE, word: &NormalizedString) -> Option<char> {
    let text = word.get();
    let is_known = |token: &str| model.token_to_id(token).is_some();
    if model.ignore_merges && is_known(text) {
        return None;
    }
    let (start, character) = text.char_indices().find(|&(start, character)| {
        let end = start + character.len_utf8();
        let plain = &text[start..end];
        let prefix = model.continuing_subword_prefix.as_deref().filter(|_| start > 0);
        let suffix = model.end_of_word_suffix.as_deref().filter(|_| end == text.len());
        let token = match (prefix, suffix) {
            (None, None) => plain.into(),
            _ => format!("{}{plain}{}", prefix.unwrap_or_default(), suffix.unwrap_or_default()),
        };
        let has_bytes = || token.bytes().all(|byte| is_known(&byte_token(byte)));
        !is_known(&token) && (!model.byte_fallback || !has_bytes())
    })?;
    let original = word.get_range_original(Range::Normalized(start..start + character.len_utf8()));
    original.and_then(|original| original.chars().next()).or(Some(character))
}

/// What stands for a byte in a vocabulary with `byte_fallback`.
fn byte_token(byte: u8) -> String {
    format!("<{byte:#04X}>")
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::*;
    use serde_json::{Value, json};

    const ALPHABET: &str = "abcdeé 日\n";

    /// A BPE whose vocabulary has a few characters, changed.
    fn json_of(change: &dyn Fn(&mut Value)) -> String {
        let mut vocab: Vec<String> = ALPHABET.chars().map(String::from).collect();
        vocab.extend(["ab", "abc"].map(String::from));
        let vocab: Value = vocab.into_iter().zip((0..).map(|id: u32| Value::from(id))).collect();
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": [["a", "b"], ["ab", "c"]]
            }
        });
        change(&mut json);
        json.to_string()
    }

    fn add(json: &mut Value, tokens: impl IntoIterator<Item = String>) {
        let vocab = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
        for token in tokens {
            let id = vocab.len();
            vocab.insert(token, id.into());
        }
    }

    fn tokenizer(change: &dyn Fn(&mut Value)) -> Tokenizer {
        Tokenizer::from_json(&json_of(change), "a test").expect("a tokenizer")
    }

    /// The library's tokens where it leaves nothing out; else the character.
    fn check(change: &dyn Fn(&mut Value), text: &str, left_out: Option<char>) {
        let library: Library = json_of(change).parse().expect("the library's");
        let theirs = library.encode_fast(text, false).expect("tokens").get_ids().to_vec();
        match (tokenizer(change).encode(text), left_out) {
            (Ok(ours), None) => assert_eq!(ours, theirs, "{text:?}"),
            (Err(TokenizerError::LeftOut { character }), Some(expected)) => {
                assert_eq!(character, expected, "{text:?}");
            }
            (result, _) => panic!("{text:?}: {result:?}, and {left_out:?} is left out"),
        }
    }

    #[test]
    fn a_character_is_never_left_out_without_a_word() {
        let nothing = |_: &mut Value| ();
        check(&nothing, "abc abcd é日\n", None);
        check(&nothing, "", None);
        check(&nothing, "abc x abc y", Some('x'));
        let message = tokenizer(&nothing).encode("abz").expect_err("it is not there").to_string();
        assert!(message.contains("'z'") && message.contains("unk_token"), "{message}");

        let with_unknown = |json: &mut Value| {
            add(json, ["?".to_owned()]);
            json["model"]["unk_token"] = "?".into();
        };
        check(&with_unknown, "abxyc", None);
        let with_some_bytes = |json: &mut Value| {
            add(json, ["<0x78>".to_owned(), "<0xC3>".to_owned()]);
            json["model"]["byte_fallback"] = true.into();
        };
        check(&with_some_bytes, "abxc", None);
        check(&with_some_bytes, "xyc", Some('y'));
        // One of its two bytes is there.
        check(&with_some_bytes, "xü", Some('ü'));
        let with_bytes = |json: &mut Value| {
            add(json, (0..=u8::MAX).map(byte_token));
            json["model"]["byte_fallback"] = true.into();
        };
        check(&with_bytes, "abc xyz ü 本", None);
    }

    #[test]
    fn what_happens_before_the_model_counts() {
        let normalized = |json: &mut Value| {
            json["normalizer"] = json!({ "type": "Sequence", "normalizers": [
                { "type": "NFC" }, { "type": "Lowercase" },
                { "type": "Replace", "pattern": { "String": "x" }, "content": "ab" }
            ] });
        };
        check(&normalized, "ABC x e\u{301}", None);
        check(&normalized, "ABC Z", Some('Z'));
        let without_spaces = |json: &mut Value| json["pre_tokenizer"] = json!({ "type": "WhitespaceSplit" });
        check(&without_spaces, "abc\t\r\n abc", None);
        let metaspace = |json: &mut Value| {
            json["pre_tokenizer"] =
                json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true });
        };
        check(&metaspace, "abc", None);
        check(&metaspace, "abc abc", Some(' '));
        let byte_level = |json: &mut Value| {
            json["pre_tokenizer"] = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        };
        check(&byte_level, "abc", None);
        // The model is given two characters that stand for the bytes of one.
        check(&byte_level, "abcé", Some('é'));
        let added = |json: &mut Value| {
            let id = json["model"]["vocab"].as_object().expect("a vocabulary").len();
            json["added_tokens"] = json!([{
                "id": id, "content": "<xyz>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            }]);
        };
        check(&added, "abc<xyz>abc", None);
        check(&added, "abc<xyz>x", Some('x'));
        let decorated = |json: &mut Value| {
            add(json, ["##b", "##c", "##c/", "a/"].map(String::from));
            json["model"]["merges"] = json!([]);
            json["model"]["continuing_subword_prefix"] = "##".into();
            json["model"]["end_of_word_suffix"] = "/".into();
        };
        check(&decorated, "abc", None);
        check(&decorated, "a", None);
        check(&decorated, "ab", Some('b'));
        check(&decorated, "ba", Some('a'));
        let whole = |json: &mut Value| {
            add(json, ["xyz".to_owned()]);
            json["model"]["ignore_merges"] = true.into();
        };
        check(&whole, "xyz", None);
        check(&whole, "xyza", Some('x'));
    }

    /// Only a model that could leave something out is checked at each character.
    #[test]
    fn complete_models_take_the_short_way() {
        let may = |json: &str| may_leave_out(&json.parse().expect("the library's"));
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
        });
        let complete = |json: &mut Value| {
            json["model"]["vocab"] = json!({});
            json["model"]["merges"] = json!([]);
            add(json, byte_alphabet());
            json["pre_tokenizer"] =
                json!({ "type": "Sequence", "pretokenizers": [{ "type": "Whitespace" }, byte_level] });
        };
        assert!(may(&json_of(&|_| ())));
        assert!(!may(&json_of(&complete)));
        assert!(may(&json_of(&|json| {
            complete(json);
            json["model"]["end_of_word_suffix"] = "/".into();
        })));
        assert!(!may(Tokenizer::bytes().json()));
    }

    #[test]
    fn other_models_fail_by_themselves() {
        let words = |kind: &str| json!({ "type": kind, "vocab": { "abc": 0, "d": 1 }, "unk_token": "[UNK]" });
        let mut pieces = words("WordPiece");
        pieces["continuing_subword_prefix"] = "##".into();
        pieces["max_input_chars_per_word"] = 100.into();
        let mut unigram = json!({ "type": "Unigram", "unk_id": null, "byte_fallback": false });
        unigram["vocab"] = json!([["abc", -1.0], ["d", -2.0], ["a", -9.0], ["b", -9.0], ["c", -9.0]]);
        for model in [words("WordLevel"), pieces, unigram] {
            let tokenizer = tokenizer(&|json| {
                json["model"] = model.clone();
                json["pre_tokenizer"] = json!({ "type": "WhitespaceSplit" });
            });
            assert_eq!(tokenizer.encode("abc d abc").expect("tokens"), [0, 1, 0], "{model}");
            let error = tokenizer.encode("abc x").expect_err("an unknown word");
            assert!(matches!(error, TokenizerError::Failed { .. }), "{model}: {error}");
        }
    }
}
