//! Files to tokens: pieces in parallel, results in order.

use super::{CorpusError, SourceFile};
use crate::tokenizer::{Tokenizer, pieces};
use rayon::prelude::*;

/// Encodes every file by itself, followed by the end-of-text token if there is one, and hands the tokens on in order. It
/// ends early where `progress` says no.
pub(super) fn encode(
    files: &[SourceFile],
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(u64, u64) -> bool,
    mut write: impl FnMut(&[u32]) -> std::io::Result<()>,
) -> Result<std::io::Result<()>, CorpusError> {
    let total: u64 = files.iter().map(|file| file.text().len() as u64).sum();
    let mut done = 0;
    let mut batch: Vec<(usize, &str, bool)> = Vec::new();
    let mut flush = |batch: &mut Vec<(usize, &str, bool)>| -> Result<std::io::Result<()>, CorpusError> {
        let encoded: Vec<_> = batch.par_iter().map(|(_, piece, _)| tokenizer.encode(piece)).collect();
        for ((file, piece, is_last), tokens) in batch.drain(..).zip(encoded) {
            let mut tokens = tokens.map_err(|source| CorpusError::Tokenizer {
                path: files[file].path().to_path_buf(),
                source,
            })?;
            if is_last {
                tokens.extend(tokenizer.end_of_text());
            }
            done += piece.len() as u64;
            if let Err(error) = write(&tokens) {
                return Ok(Err(error));
            }
        }
        if progress(done, total) { Ok(Ok(())) } else { Err(CorpusError::Stopped) }
    };
    for (index, file) in files.iter().enumerate() {
        let pieces = pieces(file.text());
        let count = pieces.len();
        for (at, piece) in pieces.into_iter().enumerate() {
            batch.push((index, piece, at + 1 == count));
            if batch.len() >= 4 * rayon::current_num_threads()
                && let Err(error) = flush(&mut batch)?
            {
                return Ok(Err(error));
            }
        }
    }
    flush(&mut batch)
}
