//! Tokenizers that are made of the corpus, and kept, because making one reads all of it.

use super::encode::pass;
use super::pieces::Piece;
use super::{CorpusError, Progress, SourceFile, Stage, cache_dir, hex};
use crate::corpus::DataConfig;
use crate::tokenizer::{Characters, Tokenizer, TokenizerError, WordCounts};
use keepstep::store::write_whole;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The version of the trainers. Raise it with any change of what they make.
const TRAINERS: u64 = 1;

/// What is made of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vocabulary {
    /// A token of each character that occurs.
    Chars,
    /// Byte-pair encoding with so many entries.
    Bpe(usize),
}

/// Makes a tokenizer of the files, or finds the one that was made of the same contents.
///
/// # Errors
/// A file that cannot be read, or a corpus too small for the vocabulary.
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
    // Nothing is taken that could fail.
    let tokenizer = match vocabulary {
        Vocabulary::Chars => {
            let characters = Characters::default();
            let look = |piece: &Piece| {
                characters.add(&piece.text);
                Ok(())
            };
            let _ = pass(files, Stage::Reading, progress, look, |()| Ok(()))?;
            Tokenizer::chars(characters.iter())
        }
        Vocabulary::Bpe(size) => {
            let words = WordCounts::default();
            let look = |piece: &Piece| {
                words.add(&piece.text);
                Ok(())
            };
            let _ = pass(files, Stage::Reading, progress, look, |()| Ok(()))?;
            let mut training = |done, total| progress(Stage::TrainingTokenizer, done as u64, total as u64);
            match Tokenizer::train_bpe(&words, size, &mut training) {
                Err(TokenizerError::Stopped) => return Err(CorpusError::Stopped),
                made => made?,
            }
        }
    };
    if let Some((path, folder)) = kept.as_ref().and_then(|path| Some((path, path.parent()?))) {
        let text = format!("{}\n{}", checksum(tokenizer.json()), tokenizer.json());
        // Where it cannot be kept, it is made again the next time.
        let _ = std::fs::create_dir_all(folder).and_then(|()| write_whole(path, text.as_bytes()));
    }
    Ok(tokenizer)
}

/// The contents of the files and what is made of them.
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

/// None where there is none, or where it is damaged.
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
