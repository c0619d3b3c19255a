//! One pass over all files: pieces in parallel, results in order.

use super::pieces::{Piece, Pieces};
use super::{CorpusError, Progress, SourceFile, Stage};
use crate::tokenizer::Tokenizer;
use rayon::prelude::*;
use std::io;

/// The number of pieces per thread that are processed at a time. As many again are read and written meanwhile.
const PIECES: usize = 8;

/// Calls `work` for every piece, on all threads, and passes the results to `take` in order. Ends early if `progress`,
/// which is called with the number of bytes done in `stage`, returns false. The inner error comes from `take`.
///
/// While one batch is processed, `take` gets the results of the previous one and the next one is read.
pub(super) fn pass<T: Send>(
    files: &[SourceFile],
    stage: Stage,
    progress: &mut Progress<'_>,
    work: impl Fn(&Piece) -> Result<T, CorpusError> + Sync,
    mut take: impl FnMut(T) -> io::Result<()> + Send,
) -> Result<io::Result<()>, CorpusError> {
    let total: u64 = files.iter().map(SourceFile::len).sum();
    let count = PIECES * rayon::current_num_threads();
    let mut pieces = Pieces::new(files);
    let mut batch = pieces.batch(count)?;
    let (mut done, mut results) = (0, Vec::new());
    while !batch.is_empty() || !results.is_empty() {
        let taken = std::mem::take(&mut results);
        let (made, (taken, next)) = rayon::join(
            || batch.par_iter().map(&work).collect::<Vec<Result<T, CorpusError>>>(),
            || (taken.into_iter().try_for_each(&mut take), pieces.batch(count)),
        );
        if let Err(error) = taken {
            return Ok(Err(error));
        }
        results = made.into_iter().collect::<Result<Vec<T>, CorpusError>>()?;
        done += batch.iter().map(|piece| piece.text.len() as u64).sum::<u64>();
        batch = next?;
        if !progress(stage, done, total) {
            return Err(CorpusError::Stopped);
        }
    }
    Ok(Ok(()))
}

/// Encodes each file separately, followed by the end-of-text token if the tokenizer has one. Passes the tokens on in
/// order, `width` bytes each.
pub(super) fn encode(
    files: &[SourceFile],
    tokenizer: &Tokenizer,
    width: usize,
    progress: &mut Progress<'_>,
    mut write: impl FnMut(&[u8]) -> io::Result<()> + Send,
) -> Result<io::Result<()>, CorpusError> {
    let work = |piece: &Piece| {
        let mut tokens = tokenizer.encode(&piece.text).map_err(|source| CorpusError::Tokenizer {
            path: files[piece.file].path().to_path_buf(),
            source,
        })?;
        if piece.ends_file {
            tokens.extend(tokenizer.end_of_text());
        }
        Ok(to_bytes(&tokens, width))
    };
    pass(files, Stage::Tokenizing, progress, work, |bytes: Vec<u8>| write(&bytes))
}

/// Converts tokens to little-endian bytes.
fn to_bytes(tokens: &[u32], width: usize) -> Vec<u8> {
    match width {
        1 => tokens.iter().map(|&token| token as u8).collect(),
        2 => tokens.iter().flat_map(|&token| (token as u16).to_le_bytes()).collect(),
        _ => tokens.iter().flat_map(|token| token.to_le_bytes()).collect(),
    }
}
