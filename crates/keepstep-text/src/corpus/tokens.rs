//! Tokens on the disk. The file name is a hash of text and tokenizer.
//!
//! ```text
//! 0      magic, bytes per token, number of tokens, CRC-32 of the table, CRC-32 of the preceding bytes; padded to 4096
//! 4096   the tokens, little-endian
//! end    the table: the CRC-32 of each 4096 bytes of tokens
//! ```
//!
//! Opening reads the header and the table, a thousandth of the file. Tokens are read in whole blocks when they are
//! needed. A block's checksum is verified at each read, before any of its tokens is returned. The file is not
//! memory-mapped: if it is truncated while in use, the read fails, and the process holds only the blocks that it is
//! reading.

use super::encode::encode;
use super::{CorpusError, Progress, SourceFile};
use crate::tokenizer::Tokenizer;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"keepstep tokens2";
/// The number of bytes that a checksum covers, and the size of the header.
const BLOCK: usize = 4096;
/// The length of the magic, three numbers and their checksum.
const HEADER: usize = 48;

/// A sequence of tokens, on the disk or in memory.
#[derive(Debug)]
pub struct Tokens {
    data: Data,
    /// The number of bytes per token.
    width: usize,
    len: u64,
}

#[derive(Debug)]
enum Data {
    Cached(Cached),
    /// The tokens, if no cache can be written.
    Memory(Vec<u8>),
}

#[derive(Debug)]
struct Cached {
    path: PathBuf,
    file: File,
    /// The number of bytes of all tokens.
    len: u64,
    sums: Vec<u32>,
}

impl Tokens {
    /// Opens the cached tokens of the files, or encodes the files and caches the result. If the cache is not writable,
    /// the tokens are kept in memory, and `note` is called.
    pub(super) fn open_or_encode(
        files: &[SourceFile],
        tokenizer: &Tokenizer,
        fingerprint: &str,
        cache: Option<&Path>,
        progress: &mut Progress<'_>,
        note: &mut dyn FnMut(String),
    ) -> Result<Tokens, CorpusError> {
        let width = width(tokenizer);
        if let Some(folder) = cache {
            let path = file_of(folder, fingerprint, tokenizer);
            match Cached::open(&path, width) {
                Ok(cached) => return Ok(cached.into_tokens(width)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    note(format!("{}: the cached tokens are created again ({error})", path.display()))
                }
            }
            let written = Writer::create(folder, width).map(|mut writer| {
                let encoded = encode(files, tokenizer, width, progress, |bytes| writer.write(bytes))?;
                Ok::<_, CorpusError>(encoded.and_then(|()| writer.finish(&path)))
            });
            let written = written.unwrap_or_else(|error| Ok(Err(error)))?;
            match written.and_then(|()| Cached::open(&path, width)) {
                Ok(cached) => return Ok(cached.into_tokens(width)),
                Err(error) => note(format!(
                    "{}: the tokens cannot be cached and are kept in memory ({error})",
                    folder.display()
                )),
            }
        }
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        let _ = encode(files, tokenizer, width, progress, |tokens| {
            bytes.extend_from_slice(tokens);
            Ok(())
        })?;
        let len = (bytes.len() / width) as u64;
        Ok(Tokens { data: Data::Memory(bytes), width, len })
    }

    /// Counts the tokens of the files, from the cache or by encoding them. Writes nothing.
    pub(super) fn count(
        files: &[SourceFile],
        tokenizer: &Tokenizer,
        fingerprint: &str,
        cache: Option<&Path>,
        progress: &mut Progress<'_>,
    ) -> Result<u64, CorpusError> {
        let width = width(tokenizer);
        if let Some(Ok(cached)) =
            cache.map(|folder| Cached::open(&file_of(folder, fingerprint, tokenizer), width))
        {
            return Ok(cached.len / width as u64);
        }
        let mut len = 0;
        // Counting does not fail.
        let _ = encode(files, tokenizer, width, progress, |bytes| {
            len += bytes.len() as u64;
            Ok(())
        })?;
        Ok(len / width as u64)
    }

    /// Returns the number of tokens.
    #[expect(clippy::len_without_is_empty, reason = "no caller needs it")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Appends `count` tokens from `start` on.
    ///
    /// # Errors
    /// Fails if the cache cannot be read, or if it is damaged there. A damaged cache is removed, and the next start
    /// creates it again.
    ///
    /// # Panics
    /// If there are fewer tokens.
    pub fn read(&self, start: u64, count: usize, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        assert!(start + count as u64 <= self.len, "tokens beyond the end");
        let (start, len) = (start * self.width as u64, count * self.width);
        match &self.data {
            Data::Memory(bytes) => self.append(&bytes[start as usize..start as usize + len], out),
            Data::Cached(cached) => {
                let first = start / BLOCK as u64 * BLOCK as u64;
                let last = (start + len as u64).next_multiple_of(BLOCK as u64).min(cached.len);
                let mut blocks = vec![0; (last - first) as usize];
                cached.read(first, &mut blocks)?;
                let start = (start - first) as usize;
                self.append(&blocks[start..start + len], out);
            }
        }
        Ok(())
    }

    /// Tells the system that these tokens will be read soon.
    pub fn will_need(&self, start: u64, count: usize) {
        #[cfg(target_os = "linux")]
        if let Data::Cached(cached) = &self.data {
            let len = std::num::NonZeroU64::new((count * self.width) as u64);
            // It is only advice. If it fails, the read takes longer.
            let advice = rustix::fs::Advice::WillNeed;
            let _ = rustix::fs::fadvise(&cached.file, BLOCK as u64 + start * self.width as u64, len, advice);
        }
    }

    fn append(&self, bytes: &[u8], out: &mut Vec<u32>) {
        match self.width {
            1 => out.extend(bytes.iter().map(|&token| u32::from(token))),
            2 => out.extend(bytes.chunks_exact(2).map(|two| u32::from(u16::from_le_bytes([two[0], two[1]])))),
            _ => out.extend(
                bytes.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]])),
            ),
        }
    }
}

/// Returns the number of bytes per token.
fn width(tokenizer: &Tokenizer) -> usize {
    match tokenizer.vocab_size() {
        0..=0x100 => 1,
        0x101..=0x1_0000 => 2,
        _ => 4,
    }
}

/// Returns the path of the cached tokens of a corpus.
fn file_of(folder: &Path, fingerprint: &str, tokenizer: &Tokenizer) -> PathBuf {
    let checked = if tokenizer.is_checked() { ".checked" } else { "" };
    folder.join(format!("{fingerprint}{checked}.blocks"))
}

impl Cached {
    fn open(path: &Path, width: usize) -> io::Result<Cached> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut header = [0; HEADER];
        let read = file.read_exact_at(&mut header, 0);
        if read.is_err() || header[..16] != *MAGIC {
            return Err(damaged("it is not a file of tokens"));
        }
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (found, count, sum) = (number(16), number(24), number(32));
        if u64::from(crc32fast::hash(&header[..HEADER - 8])) != number(HEADER - 8) {
            return Err(damaged("its header has a wrong checksum"));
        }
        let len = count.checked_mul(found).filter(|len| found == width as u64 && *len <= size);
        let expected = len.map(|len| BLOCK as u64 + len + len.div_ceil(BLOCK as u64) * 4);
        let Some(len) = len.filter(|_| expected == Some(size)) else {
            return Err(damaged("its length differs from the length in its header"));
        };
        let mut table = vec![0; len.div_ceil(BLOCK as u64) as usize * 4];
        file.read_exact_at(&mut table, BLOCK as u64 + len)?;
        if u64::from(crc32fast::hash(&table)) != sum {
            return Err(damaged("its table has a wrong checksum"));
        }
        let sums = table.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        Ok(Cached { path: path.to_path_buf(), file, len, sums: sums.collect() })
    }

    fn into_tokens(self, width: usize) -> Tokens {
        let len = self.len / width as u64;
        Tokens { data: Data::Cached(self), width, len }
    }

    /// Reads whole blocks, starting at byte `first` of the tokens, and verifies their checksums.
    fn read(&self, first: u64, blocks: &mut [u8]) -> Result<(), CorpusError> {
        let read = self.file.read_exact_at(blocks, BLOCK as u64 + first);
        read.map_err(|source| CorpusError::CacheUnreadable { path: self.path.clone(), source })?;
        let sums = &self.sums[(first / BLOCK as u64) as usize..];
        if blocks.chunks(BLOCK).zip(sums).all(|(block, sum)| crc32fast::hash(block) == *sum) {
            return Ok(());
        }
        // If the file cannot be removed, the same error comes again.
        let _ = std::fs::remove_file(&self.path);
        Err(CorpusError::CacheDamaged { path: self.path.clone() })
    }
}

/// Writes a file of tokens under a temporary name, and renames it once it is complete.
struct Writer {
    file: BufWriter<tempfile::NamedTempFile>,
    width: usize,
    len: u64,
    /// The checksums of the full blocks.
    table: Vec<u8>,
    /// The running checksum of the current block.
    sum: crc32fast::Hasher,
}

impl Writer {
    fn create(folder: &Path, width: usize) -> io::Result<Writer> {
        std::fs::create_dir_all(folder)?;
        let mut file = BufWriter::with_capacity(1 << 20, keepstep::store::temporary_file(folder)?);
        file.write_all(&[0; BLOCK])?;
        Ok(Writer { file, width, len: 0, table: Vec::new(), sum: crc32fast::Hasher::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = BLOCK - (self.len % BLOCK as u64) as usize;
            let (part, after) = rest.split_at(room.min(rest.len()));
            self.sum.update(part);
            self.len += part.len() as u64;
            if part.len() == room {
                self.end_block();
            }
            rest = after;
        }
        self.file.write_all(bytes)
    }

    fn end_block(&mut self) {
        let sum = std::mem::take(&mut self.sum).finalize();
        self.table.extend_from_slice(&sum.to_le_bytes());
    }

    fn finish(mut self, path: &Path) -> io::Result<()> {
        if !self.len.is_multiple_of(BLOCK as u64) {
            self.end_block();
        }
        self.file.write_all(&self.table)?;
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let mut header = [0; HEADER];
        header[..16].copy_from_slice(MAGIC);
        let numbers = [self.width as u64, self.len / self.width as u64, crc32fast::hash(&self.table).into()];
        for (at, number) in [16, 24, 32].into_iter().zip(numbers) {
            header[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let sum = u64::from(crc32fast::hash(&header[..HEADER - 8]));
        header[HEADER - 8..].copy_from_slice(&sum.to_le_bytes());
        io::Seek::rewind(&mut file)?;
        file.write_all(&header)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::DataConfig;
    use crate::corpus::{Vocabulary, collect, train_tokenizer};

    struct Lab {
        folder: tempfile::TempDir,
        files: Vec<SourceFile>,
    }

    impl Lab {
        fn new() -> (Lab, DataConfig) {
            let folder = tempfile::tempdir().expect("a folder");
            let text = folder.path().join("a.txt");
            let line = |index: u32| format!("the run goes on, {} times, über alles\n", index * 7);
            std::fs::write(&text, (0..9_000).map(line).collect::<String>()).expect("a file");
            let data = DataConfig {
                paths: vec![text.display().to_string()],
                cache_dir: Some(folder.path().join("files").display().to_string()),
                ..DataConfig::default()
            };
            let files = collect(&data, &mut |_, _, _| true, &mut |_| ()).expect("files");
            (Lab { folder, files }, data)
        }

        /// Returns the tokens and the number of notes.
        fn open(&self, tokenizer: &Tokenizer, cache: Option<&Path>) -> (Tokens, usize) {
            let mut notes = 0;
            let mut note = |_| notes += 1;
            let tokens =
                Tokens::open_or_encode(&self.files, tokenizer, "abc", cache, &mut |_, _, _| true, &mut note);
            (tokens.expect("tokens"), notes)
        }

        fn all(tokens: &Tokens) -> Result<Vec<u32>, CorpusError> {
            let mut all = Vec::new();
            tokens.read(0, tokens.len() as usize, &mut all)?;
            Ok(all)
        }
    }

    #[test]
    fn cached_and_in_memory_they_are_the_same() {
        let (lab, data) = Lab::new();
        let trained = train_tokenizer(&lab.files, Vocabulary::Bpe(280), &data, &mut |_, _, _| true);
        for (index, tokenizer) in [trained.expect("a tokenizer"), Tokenizer::bytes()].into_iter().enumerate()
        {
            let (memory, notes) = lab.open(&tokenizer, None);
            assert_eq!(notes, 0);
            let expected = Lab::all(&memory).expect("tokens");
            let text = std::fs::read_to_string(lab.files[0].path()).expect("it");
            let mut whole = tokenizer.encode(&text).expect("tokens");
            whole.extend(tokenizer.end_of_text());
            // The cuts of this corpus are at ends of lines, where cutting changes no tokens.
            assert!(expected == whole);

            let cache = lab.folder.path().join(format!("cache {index}"));
            let count = || {
                Tokens::count(&lab.files, &tokenizer, "abc", Some(&cache), &mut |_, _, _| true)
                    .expect("a number")
            };
            assert_eq!(count(), expected.len() as u64);
            assert!(!cache.exists(), "counting writes nothing");
            for _ in 0..2 {
                let (tokens, notes) = lab.open(&tokenizer, Some(&cache));
                assert!(matches!(tokens.data, Data::Cached(_)));
                assert!(Lab::all(&tokens).expect("tokens") == expected && notes == 0);
                assert_eq!(count(), expected.len() as u64);
                for (start, count) in
                    [(0, 1), (4090, 10), (4096, 4096), (tokens.len() - 1, 1), (tokens.len(), 0)]
                {
                    let mut some = Vec::new();
                    tokens.will_need(start, count);
                    tokens.read(start, count, &mut some).expect("tokens");
                    assert_eq!(some, expected[start as usize..start as usize + count]);
                }
            }
            let (tokens, notes) = lab.open(&tokenizer, Some(lab.files[0].path()));
            assert!(Lab::all(&tokens).expect("tokens") == expected);
            assert_eq!(notes, 2, "the folder is a file: it can be neither read nor made");
        }
    }

    #[test]
    fn damage_is_noticed_before_a_token_is_used() {
        let (lab, _) = Lab::new();
        let tokenizer = Tokenizer::bytes();
        let cache = lab.folder.path().join("cache");
        let expected = Lab::all(&lab.open(&tokenizer, Some(&cache)).0).expect("tokens");
        let path = cache.join("abc.blocks");
        let whole = std::fs::read(&path).expect("its bytes");
        // Damage in the header or the table is found on opening.
        let damaged = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        let cut_off = whole[..whole.len() - 1].to_vec();
        for bytes in [damaged(0), damaged(16), damaged(24), damaged(40), damaged(whole.len() - 1), cut_off] {
            std::fs::write(&path, bytes).expect("damaged");
            let (tokens, notes) = lab.open(&tokenizer, Some(&cache));
            assert!(Lab::all(&tokens).expect("tokens") == expected && notes == 1);
            assert!(std::fs::read(&path).expect("its bytes") == whole);
        }
        // Damage in the tokens is found on reading. The next start creates the file again.
        for at in [BLOCK, 2 * BLOCK - 1, 3 * BLOCK, BLOCK + expected.len() - 1] {
            std::fs::write(&path, damaged(at)).expect("damaged");
            let (tokens, notes) = lab.open(&tokenizer, Some(&cache));
            assert_eq!(notes, 0);
            let place = (at - BLOCK) as u64;
            let (start, other) = (place.saturating_sub(3), if place < 9_000 { 20_000 } else { 0 });
            tokens.read(other, 5, &mut Vec::new()).expect("another block");
            let error =
                tokens.read(start, 3, &mut Vec::new()).map(|()| tokens.read(place, 1, &mut Vec::new()));
            assert!(!matches!(error, Ok(Ok(()))), "byte {at}");
            let (tokens, notes) = lab.open(&tokenizer, Some(&cache));
            assert!(Lab::all(&tokens).expect("tokens") == expected && notes == 0);
        }
        // The file is truncated while it is open.
        let (tokens, _) = lab.open(&tokenizer, Some(&cache));
        File::options().write(true).open(&path).expect("it").set_len(BLOCK as u64 + 10).expect("cut");
        let error = tokens.read(0, 20, &mut Vec::new()).expect_err("it is gone");
        assert!(matches!(error, CorpusError::CacheUnreadable { .. }), "{error}");
    }

    #[test]
    fn a_stop_leaves_nothing() {
        let (lab, _) = Lab::new();
        let cache = lab.folder.path().join("cache");
        let mut stop = |_, _, _| false;
        let stopped = Tokens::open_or_encode(
            &lab.files,
            &Tokenizer::bytes(),
            "abc",
            Some(&cache),
            &mut stop,
            &mut |_| (),
        );
        assert!(matches!(stopped, Err(CorpusError::Stopped)));
        assert_eq!(std::fs::read_dir(&cache).expect("a folder").count(), 0);
    }
}
