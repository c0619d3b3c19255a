//! Corpora with characters that the tokenizer does not know.

use keepstep_text::corpus::{Corpus, CorpusError, DataConfig, Sequences, collect};
use keepstep_text::tokenizer::Tokenizer;
use std::fs;
use std::path::Path;

/// A BPE of these characters, without `unk_token` and without `byte_fallback`.
fn tokenizer(characters: &str) -> Tokenizer {
    let entry = |(id, character): (usize, char)| format!("{:?}:{id}", character.to_string());
    let vocab: Vec<String> = characters.chars().enumerate().map(entry).collect();
    let json = format!(
        "{{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],\"normalizer\":{{\"type\":\"NFC\"}},\
         \"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,\"model\":{{\"type\":\"BPE\",\"vocab\":{{{}}},\
         \"merges\":[]}}}}",
        vocab.join(",")
    );
    Tokenizer::from_json(&json, "a test").expect("a tokenizer")
}

fn corpus(folder: &Path, tokenizer: &Tokenizer) -> Result<Corpus, CorpusError> {
    let data = DataConfig {
        paths: vec![folder.join("*.txt").display().to_string()],
        cache_dir: Some(folder.join("cache").display().to_string()),
        ..DataConfig::default()
    };
    let files = collect(&data, &mut |_, _, _| true, &mut |_| ()).expect("files");
    let sequences = Sequences { block_size: 8, batch_size: 1 };
    Corpus::new(&files, tokenizer, &data, sequences, &mut |_, _, _| true, &mut |_| ())
}

#[test]
fn the_first_file_with_such_a_character_is_named_and_nothing_is_cached() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [("a", "abc ab\n"), ("b", "abc übel\n"), ("c", "abc ?\n")] {
        fs::write(folder.path().join(name).with_extension("txt"), text.repeat(20)).expect("a file");
    }
    for _ in 0..2 {
        let error = corpus(folder.path(), &tokenizer("abc \n")).expect_err("characters that are not there");
        assert!(error.is_usage());
        let CorpusError::Tokenizer { path, source } = error else { panic!("{error}") };
        assert!(path.ends_with("b.txt"), "{}", path.display());
        assert!(source.to_string().contains("'ü'"), "{source}");
    }
    let cached = fs::read_dir(folder.path().join("cache")).expect("the cache").filter_map(Result::ok);
    let blocks: Vec<_> =
        cached.filter(|entry| entry.path().extension().is_some_and(|end| end == "blocks")).collect();
    assert!(blocks.is_empty(), "{blocks:?}");
    let whole = corpus(folder.path(), &tokenizer("abc \nüel?")).expect("a corpus");
    assert_eq!(whole.num_tokens(), 20 * (7 + 9 + 6));
}

/// Tokens that an earlier version cached may lack characters: they are made again.
#[test]
fn cached_tokens_of_earlier_versions_are_not_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("a.txt");
    fs::write(&text, "abc ab\n".repeat(20)).expect("a file");
    let fingerprint = corpus(folder.path(), &tokenizer("abc \n")).expect("a corpus").fingerprint().to_owned();
    let cache = folder.path().join("cache");
    let (new, old) =
        (cache.join(format!("{fingerprint}.checked.blocks")), cache.join(format!("{fingerprint}.blocks")));
    assert!(!old.exists());
    fs::rename(&new, &old).expect("the cached tokens");
    corpus(folder.path(), &tokenizer("abc \n")).expect("a corpus");
    assert!(new.exists());
}
