//! Files to tokens: pieces in parallel, results in order.

use super::{CorpusError, SourceFile};
use crate::tokenizer::Tokenizer;
use rayon::prelude::*;

/// A piece of a file is at least this long, in bytes, unless the file ends.
const PIECE: usize = 1 << 16;

/// Pieces that are encoded before their tokens are handed on.
const BATCH: usize = 64;

/// Cuts a text after the first line that ends at or beyond `PIECE` bytes; a line of twice that length is cut after the
/// character there. Only the text decides.
pub(super) fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > PIECE {
        let window = &rest.as_bytes()[PIECE - 1..rest.len().min(2 * PIECE)];
        let mut end = match window.iter().position(|&byte| byte == b'\n') {
            Some(at) => PIECE + at,
            None => rest.len().min(2 * PIECE),
        };
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (piece, tail) = rest.split_at(end);
        pieces.push(piece);
        rest = tail;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

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
            if batch.len() == BATCH
                && let Err(error) = flush(&mut batch)?
            {
                return Ok(Err(error));
            }
        }
    }
    flush(&mut batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text() {
        for text in [
            String::new(),
            "short".to_owned(),
            "a line of some length\n".repeat(10_000),
            "x".repeat(300_000),
            "é".repeat(100_001),
        ] {
            let pieces = pieces(&text);
            assert_eq!(pieces.concat(), text);
            assert!(
                pieces.iter().rev().skip(1).all(|piece| piece.len() >= PIECE && piece.len() <= 2 * PIECE + 3)
            );
        }
        let lines = "a line of some length\n".repeat(10_000);
        assert!(pieces(&lines).iter().all(|piece| piece.ends_with('\n')));
    }
}
