//! A `.pt` file that is open for reading.

use crate::budget::Budget;
use crate::bytes::Bytes;
use crate::entry_bytes::EntryBytes;
use crate::error::{Flaw, corrupt, unsupported};
use crate::legacy::begins_legacy;
use crate::rebuild::Format;
use crate::storage::Content;
use crate::zip_reader::{Directory, Entry, Headers, read};
use crate::{ReadAt, ReadError, Value, open_regular, pickle_reader, rebuild, share};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The result of checking a file's checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checksums {
    /// Every checksum matches.
    Verified,
    /// The file was written without checksums, so damage cannot be detected.
    NotChecksummed,
}

/// An open `.pt` file. Values are parsed when it opens; tensors are read from the file on request.
#[derive(Debug)]
pub struct File {
    bytes: Bytes,
    directory: Arc<Directory>,
    value: Value,
}

impl File {
    /// Opens a file and parses everything but the tensors' bytes.
    ///
    /// # Errors
    /// See [`ReadError`]. Whatever the file contains, memory stays below twice its size plus 16 MB.
    pub fn open(path: impl AsRef<Path>) -> Result<File, ReadError> {
        let path = path.as_ref();
        let file = open_regular(path).map_err(|error| ReadError::io(path, error))?;
        File::from_source(path, Arc::new(file))
    }

    /// Opens a file that is read from any source. Errors name it by `path`.
    ///
    /// # Errors
    /// The same errors as [`File::open`].
    pub fn from_source(path: impl AsRef<Path>, source: Arc<dyn ReadAt>) -> Result<File, ReadError> {
        let path = path.as_ref();
        open(path, source, Headers::All).map_err(|flaw| flaw.at(path))
    }

    /// Opens a file and compares the checksums of everything but its tensors. Nothing that lies between the tensors is read
    /// before they are, so a source whose every read is a request to a server is read at its beginning and at its end.
    ///
    /// # Errors
    /// The same errors as [`File::open`], and [`ReadError::Corrupt`] if a checksum does not match. Reading a tensor reports
    /// what is wrong with its entry.
    pub fn values_from_source(path: impl AsRef<Path>, source: Arc<dyn ReadAt>) -> Result<File, ReadError> {
        let path = path.as_ref();
        let file = open(path, source, Headers::WithoutTensors).map_err(|flaw| flaw.at(path))?;
        let mut entries = file.directory.unmatched();
        entries.retain(|entry| !file.directory.is_tensor(entry));
        file.check_entries(&entries, 1)?;
        Ok(file)
    }

    /// Tells the source which ranges hold the tensors of a part of [`File::value`], all of which will be read soon:
    /// [`ReadAt::will_read`]. Entries that follow each other are one range.
    pub fn will_read(&self, part: &Value) {
        let mut wanted = BTreeSet::new();
        self.find_entries(part, &mut wanted);
        let mut ranges: Vec<Range<u64>> =
            wanted.into_iter().map(|at| self.directory.entries[at].range()).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        for run in ranges.chunk_by(|one, next| one.end == next.start) {
            self.bytes.will_read(run[0].start..run[run.len() - 1].end);
        }
    }

    /// Finds the indices of the entries that hold the tensors of a value.
    fn find_entries(&self, value: &Value, found: &mut BTreeSet<usize>) {
        match value {
            Value::Tensor(tensor) => {
                found.extend(tensor.storage().entry().and_then(|entry| entry.index_in(&self.directory)));
            }
            Value::List(items) | Value::Tuple(items) | Value::Object { arguments: items, .. } => {
                items.iter().for_each(|item| self.find_entries(item, found));
            }
            Value::Dict(dict) | Value::OrderedDict(dict) => {
                dict.iter().for_each(|(_, value)| self.find_entries(value, found));
            }
            _ => {}
        }
    }

    /// The value at the file's root, usually a dict.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The path that errors name.
    pub fn path(&self) -> &Path {
        self.bytes.path()
    }

    /// The file's size in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.bytes.len
    }

    /// Reads the whole file on this thread and compares every checksum. Together, this and [`File::open`] detect every
    /// changed bit that could change what is loaded.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] with the entry's name if a checksum does not match.
    pub fn verify(&self) -> Result<Checksums, ReadError> {
        self.check(1)
    }

    /// Does the same as [`File::verify`], with up to four threads for a large file.
    ///
    /// # Errors
    /// The same errors as [`File::verify`].
    pub fn verify_at_once(&self) -> Result<Checksums, ReadError> {
        self.check(share::num_threads())
    }

    /// Compares the checksums of everything but the tensors' bytes: of all that [`File::value`] was parsed from.
    ///
    /// # Errors
    /// The same errors as [`File::verify`].
    pub fn verify_values(&self) -> Result<Checksums, ReadError> {
        let entries = self.directory.entries.iter().filter(|entry| !self.directory.is_tensor(entry));
        self.check_entries(&entries.collect::<Vec<_>>(), 1)
    }

    /// Verifies the entries that have not been verified by reading. Reading a tensor that is the whole of its storage
    /// compares its checksum, so a file whose tensors were all read needs no second pass. Up to four threads read.
    ///
    /// # Errors
    /// The same errors as [`File::verify`].
    pub fn verify_rest(&self) -> Result<Checksums, ReadError> {
        self.check_entries(&self.directory.unmatched(), share::num_threads())
    }

    fn check(&self, threads: usize) -> Result<Checksums, ReadError> {
        self.check_entries(&self.directory.entries.iter().collect::<Vec<_>>(), threads)
    }

    fn check_entries(&self, entries: &[&Entry], threads: usize) -> Result<Checksums, ReadError> {
        if !self.directory.is_checksummed() {
            return Ok(Checksums::NotChecksummed);
        }
        share::check(&self.bytes, entries, threads).map_err(|flaw| flaw.at(self.path()))?;
        Ok(Checksums::Verified)
    }
}

fn open(path: &Path, file: Arc<dyn ReadAt>, headers: Headers) -> Result<File, Flaw> {
    let len = file.len_bytes()?;
    let bytes = Bytes::new(file, path, len);
    let mut budget = Budget::for_file(len);
    check_kind(&bytes)?;
    let directory = Arc::new(read(&bytes, &mut budget, headers)?);
    let Some(at) = directory.index_of("data.pkl") else {
        return unsupported("it is a zip archive, but not one of PyTorch's: it has no data.pkl");
    };
    let entry = &directory.entries[at];
    if directory.find("constants.pkl").is_some() || directory.has_folder("code") {
        return unsupported("it is a TorchScript file; save the state_dict instead (`torch.save`)");
    }
    if let Some(order) = directory.find("byteorder") {
        let mut text = [0; 6];
        let known = order.size == 6
            && bytes.read_exact_at(&mut text, order.payload(&bytes)?).is_ok()
            && text == *b"little";
        if !known {
            return unsupported(
                "its byte order is not little-endian; save it again on a little-endian machine",
            );
        }
    }
    check_version(&bytes, &directory)?;
    let before = budget.left();
    budget.take(usize::try_from(entry.size).unwrap_or(usize::MAX))?;
    let mut pickle = vec![0; entry.size as usize];
    bytes.read_exact_at(&mut pickle, entry.payload(&bytes)?)?;
    if headers == Headers::WithoutTensors && directory.is_checksummed() {
        // It is not read a second time for this.
        entry.compare(crc32fast::hash(&pickle))?;
        directory.set_matched(at);
    }
    let graph = pickle_reader::parse(&pickle, &mut budget)?;
    let for_parsing = before - budget.left();
    let find = |key: &str| {
        let at = directory.index_of(&format!("data/{key}"))?;
        Some(Content::Entry(EntryBytes::new(&bytes, &directory, at)))
    };
    let value = rebuild::rebuild(&graph, Format::Zip, &find, &mut budget)?;
    budget.give_back(for_parsing as usize);
    bytes.set_spare_bytes(budget.left());
    Ok(File { bytes, directory, value })
}

/// Checks the version of the archive, as `torch.load` does.
fn check_version(bytes: &Bytes, directory: &Directory) -> Result<(), Flaw> {
    let Some(entry) = directory.find("version").or_else(|| directory.find(".data/version")) else {
        return unsupported("it is a zip archive, but not one of PyTorch's: it has no version");
    };
    let mut text = [0; 3];
    let len = entry.size.min(3) as usize;
    bytes.read_exact_at(&mut text[..len], entry.payload(bytes)?)?;
    let version = std::str::from_utf8(&text[..len]).ok().and_then(|text| text.trim_end().parse::<u8>().ok());
    match version {
        Some(1..=10) => Ok(()),
        _ => unsupported("it is an archive of a version that is not known"),
    }
}

/// Names the older formats, which are not archives.
fn check_kind(bytes: &Bytes) -> Result<(), Flaw> {
    if bytes.len == 0 {
        return corrupt("it is empty");
    }
    let mut start = [0; 262];
    let len = bytes.len.min(262) as usize;
    bytes.read_exact_at(&mut start[..len], 0)?;
    if start.starts_with(b"PK\x03\x04") {
        return Ok(());
    }
    if begins_legacy(&start) {
        return unsupported("it is in PyTorch's legacy format; load it in PyTorch and save it again");
    }
    if start[0] == 0x80 {
        return unsupported("it is a plain pickle, not a file of torch.save");
    }
    if &start[257..262] == b"ustar" {
        return unsupported("it is in PyTorch's old tar format; load it in PyTorch and save it again");
    }
    corrupt("it does not begin like a .pt file")
}
