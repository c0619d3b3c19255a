//! The functions that are fuzzed, and what must hold for every input. The fuzz targets in `fuzz/` and the tests call
//! them.
//!
//! The program that includes this has [`Counting`] as its allocator.

// Each fuzz target uses a part of it.
#![allow(dead_code)]

use super::counting_allocator::peak_of;
use super::raw_zip::with_pickle;
use keepstep_pt::{Archive, Dict, File, LegacyFile, ReadError, Tensor, Value};
use std::sync::Arc;

/// The reader's verdict on an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The file is read, and its checksums match or are absent.
    Accepted,
    /// The file is refused.
    Refused,
}

/// A target's name and function.
pub(crate) type Target = (&'static str, fn(&[u8]) -> Verdict);

/// Every target.
pub(crate) const TARGETS: [Target; 4] =
    [("file", file), ("legacy", legacy), ("pickle", pickle), ("zip", zip)];

/// The input is a whole file.
pub(crate) fn file(input: &[u8]) -> Verdict {
    check(input)
}

/// The input is a whole file of PyTorch's format before 1.6.
pub(crate) fn legacy(input: &[u8]) -> Verdict {
    verdict(input, read_legacy, |file| check_writing(file.value()))
}

/// The input is the pickle of an archive that is honest but for it.
pub(crate) fn pickle(input: &[u8]) -> Verdict {
    check(&with_pickle(input))
}

/// The input changes the records of an honest archive: its first byte chooses the archive, each three bytes after it
/// put one byte at one place among the records. Payloads stay as they are.
pub(crate) fn zip(input: &[u8]) -> Verdict {
    let Some((&choice, changes)) = input.split_first() else { return Verdict::Refused };
    let mut bytes = honest(choice);
    let records = record_bytes(&bytes);
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
        bytes[records[place % records.len()]] = change[2];
    }
    check(&bytes)
}

/// Small archives: ours with descriptors, zip64 end and padding, and one that is bare of them.
fn honest(choice: u8) -> Vec<u8> {
    if choice.is_multiple_of(2) {
        return with_pickle(b"\x80\x02]q\0(K\x01K\x02e.");
    }
    let mut dict = Dict::new();
    dict.insert("epoch", 3_i64);
    dict.insert("weight", Tensor::from_slice(&[1.0_f32, 2.0, 3.0], vec![3]));
    dict.insert("empty", Tensor::from_slice::<i64>(&[], vec![0]));
    let mut bytes = Vec::new();
    Archive::new(&dict.into()).write_to(&mut bytes).expect("written to memory");
    bytes
}

/// The places that belong to no payload: what lies within 64 bytes after a signature, names included.
fn record_bytes(bytes: &[u8]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut end = 0;
    for at in 0..bytes.len() {
        let reach = match bytes.get(at..at + 4) {
            Some(b"PK\x03\x04") => 30 + 24,
            Some(b"PK\x01\x02") => 46 + 32,
            Some(b"PK\x06\x06") => 56,
            Some(b"PK\x06\x07") => 20,
            Some(b"PK\x05\x06") => 22,
            Some(b"PK\x07\x08") => 16,
            _ => 0,
        };
        end = end.max(at + reach);
        if at < end {
            places.push(at);
        }
    }
    places
}

/// The most memory that reading a file may take: the crate's promise.
pub(crate) fn allowed_bytes(file_len: usize) -> usize {
    2 * file_len + (16 << 20)
}

/// Reads a whole file and checks what must hold for every input.
///
/// # Panics
/// One of them does not hold.
pub(crate) fn check(bytes: &[u8]) -> Verdict {
    let values = verdict(bytes, read_values, |_| ());
    let whole = verdict(bytes, read_all, |file| check_writing(file.value()));
    assert!(
        whole == Verdict::Refused || values == Verdict::Accepted,
        "the values of a valid file are refused"
    );
    whole
}

fn verdict<F>(
    bytes: &[u8],
    read: impl FnOnce(Vec<u8>) -> Result<F, ReadError>,
    check: impl FnOnce(&F),
) -> Verdict {
    let source = bytes.to_vec();
    let (result, peak) = peak_of(|| read(source));
    assert!(
        peak <= allowed_bytes(bytes.len()),
        "a file of {} bytes took {peak} bytes of memory",
        bytes.len()
    );
    match result {
        Ok(file) => {
            check(&file);
            Verdict::Accepted
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            Verdict::Refused
        }
    }
}

/// Opens a file, checks its checksums and reads every tensor once.
fn read_all(bytes: Vec<u8>) -> Result<File, ReadError> {
    let file = open(bytes)?;
    file.verify()?;
    read_tensors(file.value());
    Ok(file)
}

/// Reads the values of a file, and then each tensor, whose entry may be damaged. All of them are announced first.
fn read_values(bytes: Vec<u8>) -> Result<File, ReadError> {
    let file = File::values_from_source("(fuzzed)", Arc::new(bytes))?;
    file.will_read(file.value());
    for_each_tensor(file.value(), &mut |tensor| {
        let len = tensor.num_elements() * tensor.dtype().size();
        assert!(
            tensor.to_bytes().is_ok_and(|bytes| bytes.len() == len) || len > 0,
            "an empty tensor is refused"
        );
    });
    Ok(file)
}

/// Opens a file of the legacy format and reads every tensor once.
fn read_legacy(bytes: Vec<u8>) -> Result<LegacyFile, ReadError> {
    let file = LegacyFile::from_source("(fuzzed)", Arc::new(bytes))?;
    read_tensors(file.value());
    Ok(file)
}

fn read_tensors(value: &Value) {
    for_each_tensor(value, &mut |tensor| match tensor.to_bytes() {
        Ok(bytes) => assert_eq!(bytes.len(), tensor.num_elements() * tensor.dtype().size()),
        Err(ReadError::Element { .. }) => {}
        Err(error) => panic!("a tensor of an accepted file cannot be read: {error}"),
    });
}

/// Writes the values that were read, reads them again and writes them again. Both files must have the same bytes.
fn check_writing(value: &Value) {
    let first = written(value);
    match open(first.clone()) {
        Ok(again) => {
            again.verify().expect("our own checksums hold");
            assert!(written(again.value()) == first, "writing the values that were read gives another file");
        }
        // Values that were shared are written out, so a file may be too large for what it holds.
        Err(ReadError::Unsupported { what, .. }) => assert!(what.contains("memory"), "{what}"),
        Err(error) => panic!("our own file is refused: {error}"),
    }
}

fn written(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    Archive::new(value).write_to(&mut bytes).expect("a value that was read can be written");
    bytes
}

fn for_each_tensor(value: &Value, visit: &mut dyn FnMut(&Tensor)) {
    match value {
        Value::Tensor(tensor) => visit(tensor),
        Value::List(items) | Value::Tuple(items) | Value::Object { arguments: items, .. } => {
            items.iter().for_each(|item| for_each_tensor(item, visit));
        }
        Value::Dict(dict) | Value::OrderedDict(dict) => dict.iter().for_each(|(key, value)| {
            for_each_tensor(key, visit);
            for_each_tensor(value, visit);
        }),
        _ => {}
    }
}

fn open(bytes: Vec<u8>) -> Result<File, ReadError> {
    File::from_source("(fuzzed)", Arc::new(bytes))
}
