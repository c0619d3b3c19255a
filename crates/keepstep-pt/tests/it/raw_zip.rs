//! Archives made by hand: every field of every record can be set, also to a wrong value.

// Each test that includes this uses a part of it.
#![allow(dead_code)]

/// An entry. The fields of the directory are those of the local header, unless `local` says otherwise.
#[derive(Debug, Clone)]
pub(crate) struct RawEntry {
    /// The entry's bytes in the file.
    pub(crate) payload: Vec<u8>,
    /// The entry's record in the directory.
    pub(crate) central: Record,
    /// The entry's local header.
    pub(crate) local: Record,
    /// The directory points at the header of an earlier entry.
    pub(crate) header_of: Option<usize>,
    /// Whether a descriptor is written where the flags announce one.
    pub(crate) has_descriptor: bool,
}

/// The fields of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// General purpose flags.
    pub(crate) flags: u16,
    /// 0 is stored, 8 deflated.
    pub(crate) method: u16,
    /// The checksum.
    pub(crate) crc: u32,
    /// Bytes in the file.
    pub(crate) compressed: u32,
    /// Bytes.
    pub(crate) size: u32,
    /// The name.
    pub(crate) name: Vec<u8>,
    /// Extra fields.
    pub(crate) extra: Vec<u8>,
}

impl RawEntry {
    /// An honest entry, stored, without a descriptor.
    pub(crate) fn new(name: &str, payload: &[u8]) -> RawEntry {
        let record = Record {
            flags: 0,
            method: 0,
            crc: crc32fast::hash(payload),
            compressed: payload.len() as u32,
            size: payload.len() as u32,
            name: name.as_bytes().to_vec(),
            extra: Vec::new(),
        };
        RawEntry {
            payload: payload.to_vec(),
            central: record.clone(),
            local: record,
            header_of: None,
            has_descriptor: true,
        }
    }

    /// The same entry with both records changed.
    pub(crate) fn with(mut self, change: impl Fn(&mut Record)) -> RawEntry {
        change(&mut self.central);
        change(&mut self.local);
        self
    }

    /// The same entry without the descriptor that its flags announce.
    pub(crate) fn without_descriptor(mut self) -> RawEntry {
        self.has_descriptor = false;
        self
    }

    /// The same entry with a change in the directory's record only.
    pub(crate) fn with_central(mut self, change: impl Fn(&mut Record)) -> RawEntry {
        change(&mut self.central);
        self
    }
}

impl Record {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.method.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.crc.to_le_bytes());
        bytes.extend(self.compressed.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend((self.extra.len() as u16).to_le_bytes());
        bytes
    }
}

/// The archive, without zip64 records.
pub(crate) fn archive(entries: &[RawEntry]) -> Vec<u8> {
    let (mut out, mut directory, mut offsets) = (Vec::new(), Vec::new(), Vec::<u32>::new());
    for entry in entries {
        let offset = match entry.header_of {
            Some(earlier) => offsets[earlier],
            None => {
                let offset = out.len() as u32;
                out.extend(b"PK\x03\x04\0\0");
                out.extend(entry.local.bytes());
                out.extend(&entry.local.name);
                out.extend(&entry.local.extra);
                out.extend(&entry.payload);
                if entry.local.flags & 8 != 0 && entry.has_descriptor {
                    out.extend(b"PK\x07\x08");
                    for value in [entry.central.crc, entry.central.compressed, entry.central.size] {
                        out.extend(value.to_le_bytes());
                    }
                }
                offset
            }
        };
        offsets.push(offset);
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend(entry.central.bytes());
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(&entry.central.name);
        directory.extend(&entry.central.extra);
    }
    let (start, len, count) = (out.len() as u32, directory.len() as u32, entries.len() as u16);
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// An honest archive with this pickle and the storages `data/0` of 16 bytes and `data/1` of 64.
pub(crate) fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    let counting: Vec<u8> = (0..64).collect();
    archive(&[
        RawEntry::new("archive/data.pkl", pickle),
        RawEntry::new("archive/data/0", &counting[..16]),
        RawEntry::new("archive/data/1", &counting),
        RawEntry::new("archive/version", b"3\n"),
    ])
}
