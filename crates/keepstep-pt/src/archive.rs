//! Writes a `.pt` file in one pass, with a size that is known in advance.

use crate::pickle_writer::{Pickle, pickle};
use crate::zip_writer::{Entry, directory, directory_len};
use crate::{Storage, Value};
use sha2::{Digest, Sha256};
use std::io::{self, Write};

/// The folder inside the archive, as `torch.save` names it when it writes to a stream.
const ROOT: &str = "archive";
const ID_DIGITS: u64 = 40;

/// A `.pt` file that is ready to be written. Equal values give equal bytes.
pub struct Archive {
    entries: Vec<Entry>,
    payloads: Vec<Payload>,
    end: u64,
}

enum Payload {
    Bytes(Vec<u8>),
    Storage(Storage),
    /// The serialization id, which is derived from everything before it.
    Id,
}

impl Archive {
    /// Plans the archive of a value. Storages are shared, not copied.
    ///
    /// Equal strings become one object. A value of a kind that can only be read becomes the nearest plain value;
    /// [`Value::check_storable`] finds such values.
    pub fn new(value: &Value) -> Archive {
        let Pickle { bytes, storages } = pickle(value);
        let text = |text: &str| Payload::Bytes(text.as_bytes().to_vec());
        let mut parts = vec![
            ("data.pkl".to_owned(), Payload::Bytes(bytes)),
            (".format_version".to_owned(), text("1")),
            (".storage_alignment".to_owned(), text("64")),
            ("byteorder".to_owned(), text("little")),
        ];
        let storages = storages.into_iter().enumerate();
        parts.extend(storages.map(|(index, storage)| (format!("data/{index}"), Payload::Storage(storage))));
        parts.push(("version".to_owned(), text("3\n")));
        parts.push((".data/serialization_id".to_owned(), Payload::Id));
        let (mut entries, mut payloads, mut offset) = (Vec::new(), Vec::new(), 0);
        for (name, payload) in parts {
            let size = match &payload {
                Payload::Bytes(bytes) => bytes.len() as u64,
                Payload::Storage(storage) => storage.byte_len(),
                Payload::Id => ID_DIGITS,
            };
            let entry = Entry { name: format!("{ROOT}/{name}"), size, offset };
            offset += entry.len_bytes();
            entries.push(entry);
            payloads.push(payload);
        }
        Archive { entries, payloads, end: offset }
    }

    /// The exact size of the file in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.end + directory_len(&self.entries)
    }

    /// Writes the file. Tensors in memory go to `out` without a copy.
    ///
    /// # Errors
    /// `out` fails, or a storage that lies in another file can no longer be read.
    ///
    /// # Durability
    /// None. The caller must flush and sync the file.
    pub fn write_to(&self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let mut crcs = Vec::with_capacity(self.entries.len());
        let mut id = Sha256::new();
        for (entry, payload) in self.entries.iter().zip(&self.payloads) {
            out.write_all(&entry.local_header())?;
            let crc = match payload {
                Payload::Bytes(bytes) => {
                    id.update(bytes);
                    write_all(bytes, out)?
                }
                Payload::Storage(storage) => write_storage(storage, out)?,
                Payload::Id => write_all(digits(&id).as_bytes(), out)?,
            };
            id.update(entry.name.as_bytes());
            id.update(entry.size.to_le_bytes());
            id.update(crc.to_le_bytes());
            out.write_all(&entry.descriptor(crc))?;
            crcs.push(crc);
        }
        out.write_all(&directory(&self.entries, &crcs, self.end))
    }
}

fn write_all(bytes: &[u8], out: &mut (impl Write + ?Sized)) -> io::Result<u32> {
    // Small parts stay in the cache between checksum and copy.
    let mut hasher = crc32fast::Hasher::new();
    for part in bytes.chunks(1 << 18) {
        hasher.update(part);
        out.write_all(part)?;
    }
    Ok(hasher.finalize())
}

fn write_storage(storage: &Storage, out: &mut (impl Write + ?Sized)) -> io::Result<u32> {
    if let Some(bytes) = storage.memory() {
        return write_all(bytes, out);
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    let mut offset = 0;
    while offset < storage.byte_len() {
        let len = (storage.byte_len() - offset).min(buffer.len() as u64) as usize;
        let part = &mut buffer[..len];
        storage.read_exact_at(part, offset).map_err(|(flaw, path)| {
            let path = path.map(std::path::Path::to_path_buf).unwrap_or_default();
            io::Error::other(flaw.at(&path))
        })?;
        hasher.update(part);
        out.write_all(part)?;
        offset += len as u64;
    }
    Ok(hasher.finalize())
}

/// Forty decimal digits of the hash of the pickle and of every entry's name, size and checksum.
fn digits(hash: &Sha256) -> String {
    let digest = hash.clone().finalize();
    let half = |start: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[start..start + 8]);
        u64::from_be_bytes(bytes)
    };
    format!("{:020}{:020}", half(0), half(8))
}
