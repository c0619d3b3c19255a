//! Hashes of files that have been read before, so that a second start need not read them again.
//!
//! An index belongs to one list of files. It holds each one's stamp and hash; a file whose stamp is another is read and
//! hashed again. An index that is damaged or gone costs that time for all of them, and nothing else.

use super::stamp::Stamp;
use super::{SourceFile, hex};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"keepstep files 1";
/// Magic, and CRC-32 of the entries.
const HEADER: usize = 24;
const HASH: usize = 32;
const ENTRY_BYTES: usize = Stamp::BYTES + HASH;

/// What is known of a file.
type Entry = Option<(Stamp, [u8; HASH])>;

/// The index of one list of files.
pub(super) struct Index {
    path: PathBuf,
    /// In the order of the list.
    entries: Vec<Entry>,
    /// A file made before any of the list was looked at: what the new index is written to.
    look: tempfile::NamedTempFile,
    looked: Stamp,
}

impl Index {
    /// Opens the index in the cache's folder.
    ///
    /// # Errors
    /// The folder cannot be written to: there is no index then.
    pub(super) fn open(folder: &Path, paths: &[PathBuf]) -> io::Result<Index> {
        fs::create_dir_all(folder)?;
        let look = keepstep::store::temporary_file(folder)?;
        let looked = Stamp::of(&look.as_file().metadata()?);
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
        Ok(Index { path, entries: entries.unwrap_or_else(|| vec![None; paths.len()]), look, looked })
    }

    /// The hash of a file of the list that has not changed since it was made.
    pub(super) fn get(&self, place: usize, stamp: &Stamp) -> Option<[u8; HASH]> {
        self.entries.get(place)?.filter(|(known, _)| known == stamp).map(|(_, hash)| hash)
    }

    /// Takes the files of the list, by their places in it, into the index, where their stamps can be relied upon.
    ///
    /// # Errors
    /// The index cannot be written; the old one stays.
    pub(super) fn write<'a>(
        mut self,
        files: impl Iterator<Item = (usize, &'a SourceFile)>,
    ) -> io::Result<()> {
        let mut is_new = false;
        for (place, file) in files {
            let entry = Some((*file.stamp(), *file.hash()));
            if file.stamp().is_settled(&self.looked) && self.entries[place] != entry {
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
        self.look.write_all(&bytes)?;
        self.look.persist(&self.path).map_err(|error| error.error)?;
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
