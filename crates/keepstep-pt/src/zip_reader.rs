//! The archive's directory, checked against the local headers. Only stored entries are read.

use crate::budget::Budget;
use crate::bytes::Bytes;
use crate::error::{Flaw, corrupt, unsupported};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub(crate) const LOCAL: u32 = 0x0403_4b50;
pub(crate) const CENTRAL: u32 = 0x0201_4b50;
pub(crate) const DESCRIPTOR: u32 = 0x0807_4b50;
pub(crate) const END: u32 = 0x0605_4b50;
pub(crate) const ZIP64_END: u32 = 0x0606_4b50;
pub(crate) const LOCATOR: u32 = 0x0706_4b50;
/// UTF-8 names, and a descriptor after each payload.
pub(crate) const FLAGS: u16 = 0x0808;
pub(crate) const ALIGNMENT: u64 = 64;
pub(crate) const MAX32: u64 = 0xffff_ffff;
pub(crate) const HAS_DESCRIPTOR: u16 = 0x0008;
const ENCRYPTED: u16 = 0x0001 | 0x0040 | 0x2000;
const END_BYTES: u64 = 22;
const LOCATOR_BYTES: u64 = 20;
const ZIP64_END_BYTES: u64 = 56;

/// One entry of the directory.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) crc: u32,
    pub(crate) size: u64,
    flags: u16,
    header: u64,
    /// Where the next entry or the directory begins.
    limit: u64,
    /// The payload's offset in the file, once the local header has been read.
    payload: OnceLock<u64>,
}

impl Entry {
    /// The payload's offset in the file. The first call compares the local header with the directory.
    pub(crate) fn payload(&self, file: &Bytes) -> Result<u64, Flaw> {
        match self.payload.get() {
            Some(payload) => Ok(*payload),
            None => local(file, self).map(|payload| *self.payload.get_or_init(|| payload)),
        }
    }

    /// The entry with its header, and with what follows it before the next one.
    pub(crate) fn range(&self) -> Range<u64> {
        self.header..self.limit
    }

    /// Compares the CRC-32 of the payload with the one in the directory.
    pub(crate) fn compare(&self, crc: u32) -> Result<(), Flaw> {
        if crc == self.crc {
            Ok(())
        } else {
            corrupt(format!("the checksum of its entry `{}` does not match", self.name))
        }
    }
}

/// Every entry, in the order of the directory.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) entries: Vec<Entry>,
    /// Which entries were read as a whole and matched their checksums.
    matched: Vec<AtomicBool>,
    /// The folder of the first entry, with its slash.
    pub(crate) root: String,
    /// Indices of the entries, by name.
    by_name: Vec<u32>,
}

impl Directory {
    /// The entry of this name below the root.
    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        self.index_of(name).map(|at| &self.entries[at])
    }

    /// The index of the entry of this name below the root.
    pub(crate) fn index_of(&self, name: &str) -> Option<usize> {
        let name = format!("{}{name}", self.root);
        let at = self.by_name.binary_search_by(|&at| self.entries[at as usize].name.cmp(&name)).ok()?;
        Some(self.by_name[at] as usize)
    }

    /// Whether the file was written with checksums.
    pub(crate) fn is_checksummed(&self) -> bool {
        self.entries.iter().any(|entry| entry.crc != 0)
    }

    /// Records that the entry with the index `at` was read as a whole and matched its checksum.
    pub(crate) fn set_matched(&self, at: usize) {
        self.matched[at].store(true, Relaxed);
    }

    /// Whether this entry holds the bytes of tensors.
    pub(crate) fn is_tensor(&self, entry: &Entry) -> bool {
        is_tensor(&self.root, &entry.name)
    }

    /// The entries that have not been read as a whole yet.
    pub(crate) fn unmatched(&self) -> Vec<&Entry> {
        let entries = self.entries.iter().zip(&self.matched);
        entries.filter(|(_, matched)| !matched.load(Relaxed)).map(|(entry, _)| entry).collect()
    }

    pub(crate) fn has_folder(&self, name: &str) -> bool {
        let prefix = format!("{}{name}/", self.root);
        let at = self.by_name.partition_point(|&at| self.entries[at as usize].name < prefix);
        self.by_name.get(at).is_some_and(|&at| self.entries[at as usize].name.starts_with(&prefix))
    }
}

/// Which entries are compared with their local headers, which lie between the payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Headers {
    /// All of them.
    All,
    /// Those that hold no tensor. Each of the others is compared before its payload is first read.
    WithoutTensors,
}

/// Reads the directory.
pub(crate) fn read(file: &Bytes, budget: &mut Budget, headers: Headers) -> Result<Directory, Flaw> {
    let (start, size, count) = find_directory(file)?;
    if size > file.len || count > size / 46 {
        return corrupt("its directory is larger than the file");
    }
    budget.take(size as usize)?;
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, start)?;
    let mut fields = Fields { bytes: &bytes };
    // Each entry also stands in two lists of indices and in one of flags.
    budget.take(count as usize * (size_of::<Entry>() + 2 * size_of::<u32>() + size_of::<AtomicBool>()))?;
    let mut entries = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let entry = central(&mut fields)?;
        budget.take(entry.name.len())?;
        entries.push(entry);
    }
    if !fields.bytes.is_empty() {
        return corrupt("its directory has more bytes than entries");
    }
    let Ok(num_entries) = u32::try_from(entries.len()) else { return unsupported("it has too many entries") };
    let root = match entries.first().and_then(|entry| entry.name.split_once('/')) {
        Some((root, _)) => format!("{root}/"),
        None => return unsupported("it is a zip archive, but not one of PyTorch's"),
    };
    let mut by_name: Vec<u32> = (0..num_entries).collect();
    by_name.sort_unstable_by(|&one, &other| entries[one as usize].name.cmp(&entries[other as usize].name));
    let twice =
        by_name.windows(2).find(|pair| entries[pair[0] as usize].name == entries[pair[1] as usize].name);
    if let Some(pair) = twice {
        return corrupt(format!("two entries have the name `{}`", entries[pair[0] as usize].name));
    }
    // In the order of their offsets: each must end before the next begins, so no byte is read twice.
    let mut by_place: Vec<u32> = (0..num_entries).collect();
    by_place.sort_unstable_by_key(|&at| entries[at as usize].header);
    for (nth, &at) in by_place.iter().enumerate() {
        let next = by_place.get(nth + 1).map_or(start, |&next| entries[next as usize].header);
        let entry = &mut entries[at as usize];
        entry.limit = next;
        if headers == Headers::WithoutTensors && is_tensor(&root, &entry.name) {
            fits(entry)?;
        } else {
            entry.payload(file)?;
        }
    }
    budget.give_back(bytes.len());
    let matched = entries.iter().map(|_| AtomicBool::new(false)).collect();
    Ok(Directory { entries, matched, root, by_name })
}

/// Whether an entry holds the bytes of tensors.
fn is_tensor(root: &str, name: &str) -> bool {
    name.strip_prefix(root).is_some_and(|name| name.starts_with("data/"))
}

/// Checks that an entry and its header lie before its limit, according to the directory alone.
fn fits(entry: &Entry) -> Result<(), Flaw> {
    let least = 30 + entry.name.len() as u64;
    let end = entry.header.checked_add(least).and_then(|payload| payload.checked_add(entry.size));
    match end {
        Some(end) if end <= entry.limit => Ok(()),
        _ => corrupt(format!("the entry `{}` reaches beyond where the next one begins", entry.name)),
    }
}

/// Start and size of the directory, and its number of entries.
fn find_directory(file: &Bytes) -> Result<(u64, u64, u64), Flaw> {
    let Some(end) = file.len.checked_sub(END_BYTES) else {
        return corrupt("it is too short to be an archive");
    };
    let mut bytes = [0; END_BYTES as usize];
    file.read_exact_at(&mut bytes, end)?;
    let mut fields = Fields { bytes: &bytes };
    if fields.u32()? != END {
        return corrupt("the archive's end is missing: the file was cut short, or something was added to it");
    }
    if fields.u16()? != 0 || fields.u16()? != 0 {
        return unsupported("it is an archive of several disks");
    }
    let (here, count) = (fields.u16()?, fields.u16()?);
    let (size, start, comment) = (fields.u32()?, fields.u32()?, fields.u16()?);
    if here != count || comment != 0 {
        return corrupt("the archive's end record contradicts itself");
    }
    let (mut directory_end, mut place) = (end, (u64::from(start), u64::from(size), u64::from(count)));
    if let Some(locator) = end.checked_sub(LOCATOR_BYTES) {
        let mut bytes = [0; LOCATOR_BYTES as usize];
        file.read_exact_at(&mut bytes, locator)?;
        let mut fields = Fields { bytes: &bytes };
        if fields.u32()? == LOCATOR {
            let (disk, zip64, disks) = (fields.u32()?, fields.u64()?, fields.u32()?);
            if disk != 0 || disks != 1 || zip64.checked_add(ZIP64_END_BYTES) != Some(locator) {
                return corrupt("the archive's zip64 locator contradicts itself");
            }
            let wide = zip64_end(file, zip64)?;
            let agrees =
                |narrow: u64, wide: u64, most: u64| narrow == wide || (narrow == most && wide >= most);
            if !agrees(place.0, wide.0, MAX32)
                || !agrees(place.1, wide.1, MAX32)
                || !agrees(place.2, wide.2, 0xffff)
            {
                return corrupt("the archive's two end records contradict each other");
            }
            (directory_end, place) = (zip64, wide);
        } else if place.0 == MAX32 || place.1 == MAX32 || place.2 == 0xffff {
            return corrupt("the archive's zip64 locator is missing");
        }
    }
    if place.0.checked_add(place.1) != Some(directory_end) {
        return corrupt("the archive's directory is not where it should be");
    }
    Ok(place)
}

fn zip64_end(file: &Bytes, at: u64) -> Result<(u64, u64, u64), Flaw> {
    let mut bytes = [0; ZIP64_END_BYTES as usize];
    file.read_exact_at(&mut bytes, at)?;
    let mut fields = Fields { bytes: &bytes };
    if fields.u32()? != ZIP64_END || fields.u64()? != ZIP64_END_BYTES - 12 {
        return corrupt("the archive's zip64 end record is damaged");
    }
    fields.take(4)?;
    let (disk, start_disk) = (fields.u32()?, fields.u32()?);
    let (here, count) = (fields.u64()?, fields.u64()?);
    let (size, start) = (fields.u64()?, fields.u64()?);
    if disk != 0 || start_disk != 0 || here != count {
        return corrupt("the archive's zip64 end record contradicts itself");
    }
    Ok((start, size, count))
}

fn central(fields: &mut Fields<'_>) -> Result<Entry, Flaw> {
    if fields.u32()? != CENTRAL {
        return corrupt("its directory is damaged");
    }
    fields.take(4)?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.take(4)?;
    let crc = fields.u32()?;
    let (compressed, size) = (u64::from(fields.u32()?), u64::from(fields.u32()?));
    let (name, extra, comment) = (fields.u16()?, fields.u16()?, fields.u16()?);
    fields.take(8)?;
    let header = u64::from(fields.u32()?);
    let name = match std::str::from_utf8(fields.take(name.into())?) {
        Ok(name) => name.to_owned(),
        Err(_) => return corrupt("an entry's name is not UTF-8"),
    };
    let mut entry = Entry { name, crc, size, flags, header, limit: 0, payload: OnceLock::new() };
    let compressed = zip64(&mut entry, compressed, fields.take(extra.into())?)?;
    fields.take(comment.into())?;
    let name = &entry.name;
    if flags & ENCRYPTED != 0 {
        return unsupported(format!("its entry `{name}` is encrypted"));
    }
    if method != 0 && name.contains("/code/") {
        return unsupported("it is a TorchScript file; save the state_dict instead (`torch.save`)");
    }
    if method != 0 {
        return unsupported(format!("its entry `{name}` is compressed; PyTorch stores its entries"));
    }
    if compressed != entry.size {
        return corrupt(format!("the entry `{name}` is stored, but has two sizes"));
    }
    if name.starts_with('/')
        || name.contains('\\')
        || name.split('/').any(|part| matches!(part, "" | "." | ".."))
    {
        return corrupt(format!("the entry's name {name:?} is not one that PyTorch writes"));
    }
    Ok(entry)
}

/// Reads the values that do not fit into 32 bits from the extra field. Gives the compressed size.
fn zip64(entry: &mut Entry, compressed: u64, extra: &[u8]) -> Result<u64, Flaw> {
    let mut compressed = compressed;
    let mut fields = Fields { bytes: extra };
    while !fields.bytes.is_empty() {
        let (id, len) = (fields.u16()?, fields.u16()?);
        let mut data = Fields { bytes: fields.take(len.into())? };
        if id == 1 {
            for value in [&mut entry.size, &mut compressed, &mut entry.header] {
                if *value == MAX32 {
                    *value = data.u64()?;
                }
            }
        }
    }
    Ok(compressed)
}

/// Checks the local header and the descriptor against the directory, and finds the payload. All of it lies before the
/// entry's limit.
fn local(file: &Bytes, entry: &Entry) -> Result<u64, Flaw> {
    let disagree =
        |what: &str| corrupt(format!("the entry `{}` disagrees with the directory: {what}", entry.name));
    let mut bytes = [0; 30];
    file.read_exact_at(&mut bytes, entry.header)?;
    let mut fields = Fields { bytes: &bytes };
    if fields.u32()? != LOCAL {
        return disagree("its header is missing");
    }
    fields.take(2)?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.take(4)?;
    let (crc, compressed, size) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (name, extra) = (u64::from(fields.u16()?), u64::from(fields.u16()?));
    if flags != entry.flags || method != 0 {
        return disagree("flags or method");
    }
    let narrow = entry.size.min(MAX32) as u32;
    let deferred = flags & HAS_DESCRIPTOR != 0;
    let holds = |value: u32, real: u32| value == real || (deferred && (value == 0 || value == u32::MAX));
    if !holds(crc, entry.crc) || !holds(compressed, narrow) || !holds(size, narrow) {
        return disagree("checksum or size");
    }
    if name != entry.name.len() as u64 {
        return disagree("name");
    }
    let descriptor_len = match (deferred, entry.size >= MAX32) {
        (false, _) => 0,
        (true, false) => 16,
        (true, true) => 24,
    };
    let payload = entry.header + 30 + name + extra;
    let end = payload.checked_add(entry.size).filter(|end| {
        end.checked_add(descriptor_len as u64).is_some_and(|descriptor_end| descriptor_end <= entry.limit)
    });
    let Some(end) = end else {
        return corrupt(format!("the entry `{}` reaches beyond where the next one begins", entry.name));
    };
    let mut local_name = vec![0; entry.name.len()];
    file.read_exact_at(&mut local_name, entry.header + 30)?;
    if local_name != entry.name.as_bytes() {
        return disagree("name");
    }
    if deferred {
        let mut bytes = [0; 24];
        file.read_exact_at(&mut bytes[..descriptor_len], end)?;
        let mut fields = Fields { bytes: &bytes[..descriptor_len] };
        let (signature, crc) = (fields.u32()?, fields.u32()?);
        let mut sizes = [0; 2];
        for size in &mut sizes {
            *size = if descriptor_len == 24 { fields.u64()? } else { fields.u32()?.into() };
        }
        if signature != DESCRIPTOR || crc != entry.crc || sizes != [entry.size; 2] {
            return corrupt(format!(
                "the descriptor of the entry `{}` disagrees with the directory",
                entry.name
            ));
        }
    }
    Ok(payload)
}

struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Flaw> {
        if len > self.bytes.len() {
            return corrupt("a record of the archive ends too early");
        }
        let (part, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u16(&mut self) -> Result<u16, Flaw> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Flaw> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Flaw> {
        self.array().map(u64::from_le_bytes)
    }
}
