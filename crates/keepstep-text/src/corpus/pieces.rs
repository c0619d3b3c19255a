//! Cuts long texts into pieces. Pieces bound the memory, keep all processors busy and let a stop take effect soon.

use super::{CorpusError, SourceFile, Stamp};
use std::fs::File;
use std::io::Read;

/// The smallest length of a piece in bytes, except at the end of a text. Part of the corpus' rule.
const PIECE: usize = 1 << 16;

/// The number of bytes that the rule needs to cut a piece: twice `PIECE`, and the rest of a character.
const WINDOW: usize = 2 * PIECE + 4;

/// The number of bytes in one read.
const READ: usize = 1 << 20;

/// Returns the length of the first piece of a text. It ends after the first line that ends at or beyond `PIECE` bytes.
/// A line of twice that length is cut after the character there. The cut depends on the text alone. If the text is
/// longer, `rest` must hold at least its first `WINDOW` bytes.
fn cut(rest: &[u8]) -> usize {
    if rest.len() <= PIECE {
        return rest.len();
    }
    let window = &rest[PIECE - 1..rest.len().min(2 * PIECE)];
    let mut end = match window.iter().position(|&byte| byte == b'\n') {
        Some(at) => PIECE + at,
        None => rest.len().min(2 * PIECE),
    };
    let is_inside = |byte: Option<&u8>| byte.is_some_and(|byte| byte & 0xC0 == 0x80);
    while is_inside(rest.get(end)) {
        end += 1;
    }
    end
}

/// A piece of a file.
#[derive(Debug)]
pub(super) struct Piece {
    /// The index of the file in the list.
    pub(super) file: usize,
    pub(super) text: String,
    /// Whether this is the last piece of the file.
    pub(super) ends_file: bool,
}

/// Iterates over the pieces of all files, in order. It keeps only the bytes in memory that the rule needs.
pub(super) struct Pieces<'a> {
    files: &'a [SourceFile],
    next: usize,
    open: Option<OpenFile>,
    buffer: Vec<u8>,
}

struct OpenFile {
    file: File,
    /// The number of bytes at the start of the buffer that have become pieces.
    start: usize,
    /// The offset of the buffer in the file.
    offset: u64,
    is_read: bool,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(files: &'a [SourceFile]) -> Pieces<'a> {
        Pieces { files, next: 0, open: None, buffer: Vec::with_capacity(READ + WINDOW) }
    }

    /// Returns the next pieces, at most `count`. Returns none at the end.
    ///
    /// # Errors
    /// Fails if a file cannot be read, or if it has changed since it was hashed.
    pub(super) fn batch(&mut self, count: usize) -> Result<Vec<Piece>, CorpusError> {
        let mut batch = Vec::new();
        while batch.len() < count {
            match self.piece()? {
                Some(piece) => batch.push(piece),
                None => break,
            }
        }
        Ok(batch)
    }

    fn piece(&mut self) -> Result<Option<Piece>, CorpusError> {
        let Some(source) = self.files.get(self.next) else { return Ok(None) };
        let unreadable = |error| CorpusError::Unreadable { path: source.path().to_path_buf(), source: error };
        let changed = || CorpusError::Changed { path: source.path().to_path_buf() };
        if self.open.is_none() {
            self.buffer.clear();
            let file = File::open(source.path()).map_err(unreadable)?;
            self.open = Some(OpenFile { file, start: 0, offset: 0, is_read: false });
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        if self.buffer.len() - open.start < WINDOW && !open.is_read {
            open.fill(&mut self.buffer).map_err(unreadable)?;
        }
        let rest = &self.buffer[open.start..];
        let bytes = rest[..cut(rest)].to_vec();
        let at = open.offset + open.start as u64;
        open.start += bytes.len();
        let ends_file = open.is_read && open.start == self.buffer.len();
        let text = String::from_utf8(bytes).map_err(|error| CorpusError::NotUtf8 {
            path: source.path().to_path_buf(),
            at: at + error.utf8_error().valid_up_to() as u64,
        })?;
        if ends_file {
            let stamp = Stamp::from_metadata(&open.file.metadata().map_err(unreadable)?);
            if at + text.len() as u64 != source.len() || !stamp.has_content_of(source.stamp()) {
                return Err(changed());
            }
            self.open = None;
        }
        let file = self.next;
        self.next += usize::from(ends_file);
        Ok(Some(Piece { file, text, ends_file }))
    }
}

impl OpenFile {
    /// Drops the used bytes, and reads until the buffer holds enough for a piece or the file ends.
    fn fill(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        buffer.drain(..self.start);
        self.offset += self.start as u64;
        self.start = 0;
        let wanted = (READ + WINDOW - buffer.len()) as u64;
        let read = Read::by_ref(&mut self.file).take(wanted).read_to_end(buffer)?;
        self.is_read = (read as u64) < wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::DataConfig;
    use crate::corpus::collect;

    fn texts() -> Vec<String> {
        vec![
            "short".to_owned(),
            "a line of some length\n".repeat(100_000),
            "x".repeat(300_000),
            "é".repeat(1_000_001),
            "x".repeat(PIECE),
            "x".repeat(PIECE - 1) + "\n" + "y",
            "x".repeat(2 * PIECE - 1) + "日本",
        ]
    }

    /// Applies the rule to a text in memory.
    fn pieces(text: &str) -> Vec<&str> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(cut(rest.as_bytes()));
            pieces.push(piece);
            rest = tail;
        }
        pieces
    }

    #[test]
    fn pieces_are_the_text() {
        for text in texts() {
            let pieces = pieces(&text);
            assert_eq!(pieces.concat(), text);
            assert!(
                pieces.iter().rev().skip(1).all(|piece| piece.len() >= PIECE && piece.len() <= 2 * PIECE + 3)
            );
        }
        let lines = "a line of some length\n".repeat(10_000);
        assert!(pieces(&lines).iter().all(|piece| piece.ends_with('\n')));
    }

    #[test]
    fn read_from_files_they_are_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        for (index, text) in texts().iter().enumerate() {
            std::fs::write(folder.path().join(format!("{index}.txt")), text).expect("a file");
        }
        let data = DataConfig {
            paths: vec![folder.path().join("*.txt").display().to_string()],
            cache_dir: Some(folder.path().join("cache").display().to_string()),
            ..DataConfig::default()
        };
        let files = collect(&data, &mut |_, _, _| true, &mut |_| ()).expect("files");
        let mut reader = Pieces::new(&files);
        let mut found = Vec::new();
        loop {
            let batch = reader.batch(3).expect("pieces");
            if batch.is_empty() {
                break;
            }
            found.extend(batch.into_iter().map(|piece| (piece.file, piece.text, piece.ends_file)));
        }
        let mut expected = Vec::new();
        for (file, text) in texts().iter().enumerate() {
            let pieces = pieces(text);
            let last = pieces.len() - 1;
            expected
                .extend(pieces.iter().enumerate().map(|(at, text)| (file, (*text).to_owned(), at == last)));
        }
        assert!(found == expected);
    }

    #[test]
    fn a_file_that_changes_after_it_was_hashed_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        let data = DataConfig {
            paths: vec![path.display().to_string()],
            cache_dir: Some(folder.path().join("cache").display().to_string()),
            ..DataConfig::default()
        };
        for text in ["shorter", "as longer", "a longer text", ""] {
            std::fs::write(&path, "as before").expect("a file");
            let files = collect(&data, &mut |_, _, _| true, &mut |_| ()).expect("files");
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::fs::write(&path, text).expect("a file");
            let error = Pieces::new(&files).batch(9).expect_err(text);
            assert!(matches!(error, CorpusError::Changed { .. }), "{text}: {error}");
        }
    }
}
