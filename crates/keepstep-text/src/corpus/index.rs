//! An index of file hashes. With it, a second start does not read unchanged files again.
//!
//! An index belongs to one list of files. It holds each file's stamp and hash. A file whose stamp differs is read and
//! hashed again. If the index is damaged or missing, all files are read again; nothing else is lost.

use super::SourceFile;
use super::stamp::Stamp;
use keepstep::hex;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"keepstep files 1";
/// The length of the magic and of the CRC-32 of the entries.
const HEADER: usize = 24;
const HASH: usize = 32;
const ENTRY_BYTES: usize = Stamp::BYTES + HASH;

/// The stamp and the hash of a file, if known.
type Entry = Option<(Stamp, [u8; HASH])>;

/// The index of one list of files.
pub(super) struct Index {
    path: PathBuf,
    /// One entry per file, in the order of the list.
    entries: Vec<Entry>,
    /// A file created before any file of the list was examined. The new index is written to it.
    new_file: tempfile::NamedTempFile,
    opened_at: Stamp,
}

impl Index {
    /// Opens the index in the cache's folder.
    ///
    /// # Errors
    /// Fails if the folder is not writable. There is no index then.
    pub(super) fn open(folder: &Path, paths: &[PathBuf]) -> io::Result<Index> {
        fs::create_dir_all(folder)?;
        let new_file = keepstep::store::temporary_file(folder)?;
        let opened_at = Stamp::from_metadata(&new_file.as_file().metadata()?);
        let mut hash = Sha256::new();
        hash.update(b"keepstep files");
        for path in paths {
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            let bytes = path.as_os_str().as_encoded_bytes();
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        let path = folder.join(format!("{}.files", hex(&hash.finalize())));
        let entries = fs::read(&path).ok().and_then(|bytes| parse(&bytes, paths.len()));
        Ok(Index { path, entries: entries.unwrap_or_else(|| vec![None; paths.len()]), new_file, opened_at })
    }

    /// Returns the hash of a file of the list, if the file has not changed since it was hashed.
    pub(super) fn get(&self, place: usize, stamp: &Stamp) -> Option<[u8; HASH]> {
        self.entries.get(place)?.filter(|(known, _)| known == stamp).map(|(_, hash)| hash)
    }

    /// Writes an index with the given files, by their places in the list. Skips files whose stamps are not reliable
    /// yet.
    ///
    /// # Errors
    /// Fails if the index cannot be written. The old one stays.
    pub(super) fn write<'a>(
        mut self,
        files: impl Iterator<Item = (usize, &'a SourceFile)>,
    ) -> io::Result<()> {
        let mut is_new = false;
        for (place, file) in files {
            let entry = Some((*file.stamp(), *file.hash()));
            if file.stamp().is_settled(&self.opened_at) && self.entries[place] != entry {
                self.entries[place] = entry;
                is_new = true;
            }
        }
        if !is_new {
            return Ok(());
        }
        let mut bytes = vec![0; HEADER];
        for entry in &self.entries {
            let (stamp, hash) =
                entry.map_or(([0; Stamp::BYTES], [0; HASH]), |(stamp, hash)| (stamp.to_bytes(), hash));
            bytes.extend_from_slice(&stamp);
            bytes.extend_from_slice(&hash);
        }
        let sum = crc32fast::hash(&bytes[HEADER..]);
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..HEADER].copy_from_slice(&u64::from(sum).to_le_bytes());
        self.new_file.write_all(&bytes)?;
        self.new_file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

fn parse(bytes: &[u8], count: usize) -> Option<Vec<Entry>> {
    let (header, entries) = bytes.split_at_checked(HEADER)?;
    let sum = u64::from(crc32fast::hash(entries)).to_le_bytes();
    if header[..16] != *MAGIC || header[16..] != sum || entries.len() != count * ENTRY_BYTES {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let stamp = Stamp::from_bytes(bytes[..Stamp::BYTES].try_into().ok()?);
        let hash = bytes[Stamp::BYTES..].try_into().ok()?;
        (stamp.size() > 0).then_some((stamp, hash))
    };
    Some(entries.chunks_exact(ENTRY_BYTES).map(entry).collect())
}
