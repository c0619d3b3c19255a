//! Tokenizers trained on the corpus. They are cached, because training reads the whole corpus.

use super::encode::pass;
use super::pieces::Piece;
use super::{CorpusError, Progress, SourceFile, Stage, cache_dir};
use crate::corpus::DataConfig;
use crate::tokenizer::{Characters, Tokenizer, TokenizerError, WordCounts};
use keepstep::hex;
use keepstep::store::write_whole;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The version of the trainers. Raise it with any change to their results.
const TRAINERS: u64 = 1;

/// The kind of tokenizer to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vocabulary {
    /// One token for each character that occurs.
    Chars,
    /// Byte-pair encoding with this many entries.
    Bpe(usize),
}

/// Trains a tokenizer on the files, or loads the one that was trained on the same contents.
///
/// # Errors
/// Fails if a file cannot be read, or if the corpus is too small for the vocabulary.
pub fn train_tokenizer(
    files: &[SourceFile],
    vocabulary: Vocabulary,
    data: &DataConfig,
    progress: &mut Progress<'_>,
) -> Result<Tokenizer, CorpusError> {
    let kept = cache_dir(data)?.map(|folder| folder.join(format!("{}.tokenizer", key(files, vocabulary))));
    if let Some(tokenizer) = kept.as_deref().and_then(read) {
        return Ok(tokenizer);
    }
    // The callback that takes results does nothing, so the inner result is always `Ok`.
    let tokenizer = match vocabulary {
        Vocabulary::Chars => {
            let characters = Characters::default();
            let add = |piece: &Piece| {
                characters.add(&piece.text);
                Ok(())
            };
            let _ = pass(files, Stage::Reading, progress, add, |()| Ok(()))?;
            Tokenizer::chars(characters.iter())
        }
        Vocabulary::Bpe(size) => {
            let words = WordCounts::default();
            let add = |piece: &Piece| {
                words.add(&piece.text);
                Ok(())
            };
            let _ = pass(files, Stage::Reading, progress, add, |()| Ok(()))?;
            let mut training = |done, total| progress(Stage::TrainingTokenizer, done as u64, total as u64);
            match Tokenizer::train_bpe(&words, size, &mut training) {
                Err(TokenizerError::Stopped) => return Err(CorpusError::Stopped),
                made => made?,
            }
        }
    };
    if let Some((path, folder)) = kept.as_ref().and_then(|path| Some((path, path.parent()?))) {
        let text = format!("{}\n{}", checksum(tokenizer.json()), tokenizer.json());
        // If it cannot be cached, it is trained again the next time.
        let _ = std::fs::create_dir_all(folder).and_then(|()| write_whole(path, text.as_bytes()));
    }
    Ok(tokenizer)
}

/// Hashes the contents of the files, the kind of tokenizer and the trainers' version.
fn key(files: &[SourceFile], vocabulary: Vocabulary) -> String {
    let mut hash = Sha256::new();
    hash.update(b"keepstep tokenizer");
    let (kind, size) = match vocabulary {
        Vocabulary::Chars => (0_u64, 0),
        Vocabulary::Bpe(size) => (1, size as u64),
    };
    for number in [super::RULE, TRAINERS, kind, size] {
        hash.update(number.to_le_bytes());
    }
    for file in files {
        hash.update(file.len().to_le_bytes());
        hash.update(file.hash());
    }
    hex(&hash.finalize())
}

fn checksum(json: &str) -> String {
    hex(&Sha256::digest(json))
}

/// Reads a cached tokenizer. Returns `None` if it is missing or damaged.
fn read(path: &Path) -> Option<Tokenizer> {
    let text = std::fs::read_to_string(path).ok()?;
    let (sum, json) = text.split_once('\n')?;
    if sum != checksum(json) {
        return None;
    }
    Tokenizer::from_json(json, &path.display().to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::collect;
    use super::*;

    #[test]
    fn it_is_made_once_and_again_where_it_is_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = folder.path().join("a.txt");
        std::fs::write(&text, "the run goes on, über alle Berge ".repeat(9_000)).expect("a file");
        let cache = folder.path().join("cache");
        let data = DataConfig {
            paths: vec![text.display().to_string()],
            cache_dir: Some(cache.display().to_string()),
            ..DataConfig::default()
        };
        let get = |vocabulary: Vocabulary| {
            let files = collect(&data, &mut |_, _, _| true, &mut |_| ()).expect("files");
            let mut passes = 0;
            let mut progress = |_, _, _| {
                passes += 1;
                true
            };
            let tokenizer = train_tokenizer(&files, vocabulary, &data, &mut progress).expect("a tokenizer");
            (tokenizer.json().to_owned(), passes > 0)
        };
        for vocabulary in [Vocabulary::Chars, Vocabulary::Bpe(265)] {
            let (json, made) = get(vocabulary);
            assert!(made);
            assert_eq!(get(vocabulary), (json.clone(), false));
            for entry in std::fs::read_dir(&cache).expect("the cache") {
                let path = entry.expect("an entry").path();
                if path.extension().is_some_and(|extension| extension == "tokenizer") {
                    let kept = std::fs::read_to_string(&path).expect("it");
                    std::fs::write(&path, kept.replace("\"a\"", "\"A\"")).expect("damaged");
                }
            }
            assert_eq!(get(vocabulary), (json.clone(), true));
            assert_eq!(get(vocabulary), (json, false));
        }
        assert_ne!(get(Vocabulary::Bpe(264)).0, get(Vocabulary::Bpe(265)).0);
    }
}
