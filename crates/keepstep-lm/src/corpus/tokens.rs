//! Tokens on the disk, mapped into memory, under a name that their text and tokenizer decide.

use super::encode::encode;
use super::{CorpusError, SourceFile};
use crate::tokenizer::Tokenizer;
use memmap2::Mmap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

const MAGIC: &[u8; 16] = b"keepstep tokens1";
/// Magic, bytes per token, number of tokens, CRC-32 of the tokens, and room to 64 bytes.
const HEADER: usize = 64;

/// A line of tokens.
#[derive(Debug)]
pub struct Tokens {
    data: Data,
    width: usize,
    len: u64,
}

#[derive(Debug)]
enum Data {
    Mapped(Mmap),
    /// Where no cache can be written.
    Memory(Vec<u8>),
}

impl Tokens {
    /// The tokens of the files: from the cache, or encoded now and put there. A cache that cannot be written costs
    /// memory and a note, no run.
    pub(super) fn of(
        files: &[SourceFile],
        tokenizer: &Tokenizer,
        fingerprint: &str,
        cache: Option<&Path>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
        note: &mut dyn FnMut(String),
    ) -> Result<Tokens, CorpusError> {
        let width = if tokenizer.vocab_size() <= 1 << 16 { 2 } else { 4 };
        if let Some(folder) = cache {
            let path = folder.join(format!("{fingerprint}.tokens"));
            match Tokens::open(&path, width) {
                Ok(tokens) => return Ok(tokens),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => note(format!("{}: the cached tokens are made anew ({error})", path.display())),
            }
            let written = Tokens::write(&path, folder, files, tokenizer, width, progress)?;
            match written.and_then(|()| Tokens::open(&path, width)) {
                Ok(tokens) => return Ok(tokens),
                Err(error) => note(format!(
                    "{}: the tokens cannot be cached and are kept in memory ({error})",
                    folder.display()
                )),
            }
        }
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        let _ = encode(files, tokenizer, progress, |tokens| {
            push(&mut bytes, tokens, width);
            Ok(())
        })?;
        let len = (bytes.len() / width) as u64;
        Ok(Tokens { data: Data::Memory(bytes), width, len })
    }

    /// How many tokens the files have: of the cache, or counted now. Nothing is written.
    pub(super) fn count(
        files: &[SourceFile],
        tokenizer: &Tokenizer,
        fingerprint: &str,
        cache: Option<&Path>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<u64, CorpusError> {
        let width = if tokenizer.vocab_size() <= 1 << 16 { 2 } else { 4 };
        let cached = cache.map(|folder| Tokens::open(&folder.join(format!("{fingerprint}.tokens")), width));
        if let Some(Ok(tokens)) = cached {
            return Ok(tokens.len());
        }
        let mut count = 0;
        // Counting does not fail.
        let _ = encode(files, tokenizer, progress, |tokens| {
            count += tokens.len() as u64;
            Ok(())
        })?;
        Ok(count)
    }

    /// How many tokens.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Appends `count` tokens from `start` on.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn read(&self, start: u64, count: usize, out: &mut Vec<u32>) {
        let bytes = match &self.data {
            Data::Mapped(map) => &map[HEADER..],
            Data::Memory(bytes) => bytes,
        };
        let start = start as usize * self.width;
        let bytes = &bytes[start..start + count * self.width];
        if self.width == 2 {
            out.extend(
                bytes.chunks_exact(2).map(|token| u32::from(u16::from_le_bytes([token[0], token[1]]))),
            );
        } else {
            out.extend(
                bytes
                    .chunks_exact(4)
                    .map(|token| u32::from_le_bytes([token[0], token[1], token[2], token[3]])),
            );
        }
    }

    fn open(path: &Path, width: usize) -> io::Result<Tokens> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let file = File::open(path)?;
        // SAFETY: the mapping is only read, and the file is never changed once it has its name: a new one replaces it.
        let map = unsafe { Mmap::map(&file) }?;
        if map.len() < HEADER || &map[..16] != MAGIC {
            return Err(damaged("it is no file of tokens"));
        }
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&map[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (found, len, sum) = (number(16), number(24), number(32));
        if found != width as u64 || len.checked_mul(found) != Some((map.len() - HEADER) as u64) {
            return Err(damaged("its length is not the one it states"));
        }
        if u64::from(crc32fast::hash(&map[HEADER..])) != sum {
            return Err(damaged("its checksum does not hold"));
        }
        Ok(Tokens { data: Data::Mapped(map), width, len })
    }

    /// Writes a file that has its name only once it is whole.
    fn write(
        path: &Path,
        folder: &Path,
        files: &[SourceFile],
        tokenizer: &Tokenizer,
        width: usize,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<io::Result<()>, CorpusError> {
        let create = || {
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&[0; HEADER])?;
            Ok::<_, io::Error>(io::BufWriter::with_capacity(1 << 20, file))
        };
        let mut file = match create() {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let (mut len, mut sum, mut bytes) = (0_u64, crc32fast::Hasher::new(), Vec::new());
        let written = encode(files, tokenizer, progress, |tokens| {
            bytes.clear();
            push(&mut bytes, tokens, width);
            len += tokens.len() as u64;
            sum.update(&bytes);
            file.write_all(&bytes)
        })?;
        let finish = || {
            written?;
            let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            let mut header = [0; HEADER];
            header[..16].copy_from_slice(MAGIC);
            for (at, number) in [(16, width as u64), (24, len), (32, u64::from(sum.finalize()))] {
                header[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            io::Seek::rewind(&mut file)?;
            file.write_all(&header)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        Ok(finish())
    }
}

fn push(bytes: &mut Vec<u8>, tokens: &[u32], width: usize) {
    for token in tokens {
        bytes.extend_from_slice(&token.to_le_bytes()[..width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DataConfig;
    use crate::corpus::collect;

    #[test]
    fn cached_in_memory_and_damaged_tokens_are_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = folder.path().join("a.txt");
        std::fs::write(&text, "the run goes on ".repeat(9_000)).expect("a file");
        let paths = vec![text.display().to_string()];
        let files = collect(&DataConfig { paths, ..DataConfig::default() }).expect("files");
        let tokenizer = Tokenizer::train_bpe(&[files[0].text()], 265, &mut |_, _| true).expect("a tokenizer");
        let cache = folder.path().join("cache");
        let get = |cache: Option<&Path>| {
            let mut notes = Vec::new();
            let tokens =
                Tokens::of(&files, &tokenizer, "abc", cache, &mut |_, _| true, &mut |note| notes.push(note))
                    .expect("tokens");
            let mut all = Vec::new();
            tokens.read(0, tokens.len() as usize, &mut all);
            (all, notes.len())
        };
        let (memory, _) = get(None);
        let count = || {
            Tokens::count(&files, &tokenizer, "abc", Some(&cache), &mut |_, _| true).expect("a number")
                as usize
        };
        assert_eq!(count(), memory.len());
        assert!(!cache.exists(), "counting writes nothing");
        assert_eq!(*memory.last().expect("a token"), 264, "the end-of-text token comes last");
        assert_eq!(get(Some(&cache)), (memory.clone(), 0));
        assert_eq!(count(), memory.len());
        let path = cache.join("abc.tokens");
        let written = std::fs::metadata(&path).expect("a file").modified().expect("a time");
        assert_eq!(get(Some(&cache)), (memory.clone(), 0));
        assert_eq!(std::fs::metadata(&path).expect("a file").modified().expect("a time"), written);
        for damage in [64, 70, 20, 0] {
            let mut bytes = std::fs::read(&path).expect("its bytes");
            bytes[damage] ^= 1;
            std::fs::write(&path, bytes).expect("damaged");
            assert_eq!(get(Some(&cache)), (memory.clone(), 1), "byte {damage}");
            assert_eq!(get(Some(&cache)), (memory.clone(), 0), "it was made anew");
        }
        assert_eq!(get(Some(&text)), (memory, 2), "a cache folder that is a file");
    }
}
