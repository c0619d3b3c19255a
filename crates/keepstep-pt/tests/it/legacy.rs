//! The format of PyTorch before 1.6: what is read, and damaged and hostile files.

use crate::counting_allocator::peak_of;
use keepstep_pt::{Dtype, File, LegacyFile, ReadError, Tensor, Value};
use std::sync::Arc;

const MAGIC: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";
const VERSION: &[u8] = b"\x80\x02M\xe9\x03.";

/// A file of the legacy format, part by part.
#[derive(Clone)]
struct Legacy {
    magic: Vec<u8>,
    version: Vec<u8>,
    machine: Vec<u8>,
    values: Vec<u8>,
    keys: Vec<u8>,
    storages: Vec<u8>,
}

impl Legacy {
    fn bytes(&self) -> Vec<u8> {
        [&self.magic[..], &self.version, &self.machine, &self.values, &self.keys, &self.storages].concat()
    }
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn int(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

fn machine(little_endian: bool) -> Vec<u8> {
    let order = if little_endian { b'\x88' } else { b'\x89' };
    [&b"\x80\x02}("[..], &text("protocol_version"), b"M\xe9\x03", &text("little_endian"), &[order], b"u."]
        .concat()
}

/// The reference to a storage; `view` is the opcodes of its last part.
fn storage(kind: &str, key: &str, numel: i64, view: &[u8]) -> Vec<u8> {
    let kind = format!("ctorch\n{kind}\n");
    [&b"("[..], &text("storage"), kind.as_bytes(), &text(key), &text("cpu"), &int(numel), view, b"tQ"]
        .concat()
}

fn tensor(storage: &[u8], offset: i64, shape: [i64; 2], strides: [i64; 2]) -> Vec<u8> {
    let pair = |pair: [i64; 2]| [int(pair[0]), int(pair[1]), b"\x86".to_vec()].concat();
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
        storage,
        &int(offset),
        &pair(shape),
        &pair(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

fn values(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> =
        entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [&b"\x80\x02ccollections\nOrderedDict\n)R("[..], &entries, b"u."].concat()
}

fn keys(keys: &[&str]) -> Vec<u8> {
    let keys: Vec<u8> = keys.iter().flat_map(|key| text(key)).collect();
    [&b"\x80\x02]("[..], &keys, b"e."].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    let data = values.iter().flat_map(|value| value.to_le_bytes());
    (values.len() as u64).to_le_bytes().into_iter().chain(data).collect()
}

/// A matrix and its transpose, which share a storage, and two halves.
fn small() -> Legacy {
    let matrix = storage("FloatStorage", "17", 6, b"N");
    let halves = storage("HalfStorage", "9", 2, b"N");
    Legacy {
        magic: MAGIC.to_vec(),
        version: VERSION.to_vec(),
        machine: machine(true),
        values: values(&[
            ("whole", tensor(&matrix, 0, [2, 3], [3, 1])),
            ("turned", tensor(&matrix, 0, [3, 2], [1, 3])),
            ("halves", tensor(&halves, 0, [1, 2], [2, 1])),
            ("epoch", int(3)),
        ]),
        keys: keys(&["17", "9"]),
        storages: [
            floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            [&[2, 0, 0, 0, 0, 0, 0, 0][..], &[0, 0x3c, 0, 0xc0]].concat(),
        ]
        .concat(),
    }
}

fn load(bytes: &[u8]) -> Result<Value, ReadError> {
    Ok(LegacyFile::from_source("file.bin", Arc::new(bytes.to_vec()))?.value().clone())
}

fn tensor_of<'a>(root: &'a Value, name: &str) -> &'a Tensor {
    root.as_dict().and_then(|root| root.get(name)?.as_tensor()).expect("the tensor")
}

#[test]
fn an_honest_file_is_read_where_it_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file.bin");
    std::fs::write(&path, small().bytes()).expect("written");
    assert!(LegacyFile::is_legacy(&path).expect("readable"));
    let file = LegacyFile::open(&path).expect("it opens");
    let (whole, turned) = (tensor_of(file.value(), "whole"), tensor_of(file.value(), "turned"));
    assert_eq!(whole.to_vec::<f32>().expect("its values"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(turned.to_vec::<f32>().expect("its values"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    let halves = tensor_of(file.value(), "halves");
    assert_eq!((halves.dtype(), halves.to_bytes().expect("its bytes")), (Dtype::F16, vec![0, 0x3c, 0, 0xc0]));
    assert_eq!(file.value().as_dict().and_then(|root| root.get("epoch")?.as_int()), Some(3));
    // Whoever reads checkpoints gets them refused, with the way out.
    let refused = File::open(&path).expect_err("no archive").to_string();
    assert!(refused.contains("legacy format") && refused.contains("save it again"), "{refused}");
    for short in [&b""[..], b"\x80\x02", b"PK\x03\x04 and more"] {
        std::fs::write(&path, short).expect("written");
        assert!(!LegacyFile::is_legacy(&path).expect("readable"));
    }
}

#[test]
fn every_truncation_and_appended_bytes_are_noticed() {
    let bytes = small().bytes();
    load(&bytes).expect("an honest file");
    for len in 0..bytes.len() {
        assert!(load(&bytes[..len]).is_err(), "cut to {len}");
    }
    assert!(load(&[&bytes[..], b"\0"].concat()).is_err());
}

/// There are no checksums: a flip may change a value. It never causes a panic, and tensors stay inside the file.
#[test]
fn every_flipped_bit_is_refused_or_read() {
    let mut bytes = small().bytes();
    let (mut accepted, data) = (0, small().storages.len() - 16);
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(root) = load(&bytes) {
            accepted += 1;
            for (_, value) in root.as_dict().into_iter().flat_map(|root| root.iter()) {
                if let Some(tensor) = value.as_tensor() {
                    let _ = tensor.to_bytes();
                }
            }
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(accepted >= data * 8 && accepted * 2 < bytes.len() * 8, "{accepted} of {} bits", bytes.len() * 8);
}

#[test]
fn files_that_lie_are_refused_by_name() {
    let small = small();
    let with = |change: &dyn Fn(&mut Legacy)| {
        let mut legacy = small.clone();
        change(&mut legacy);
        legacy.bytes()
    };
    let one = |storage: Vec<u8>| {
        with(&|legacy| {
            legacy.values = values(&[("a", tensor(&storage, 0, [1, 2], [2, 1]))]);
            legacy.keys = keys(&["1"]);
            legacy.storages = floats(&[1.0, 2.0]);
        })
    };
    load(&one(storage("FloatStorage", "1", 2, b"N"))).expect("an honest file");
    let two_sizes = values(&[
        ("a", tensor(&storage("FloatStorage", "1", 2, b"N"), 0, [1, 2], [2, 1])),
        ("b", tensor(&storage("HalfStorage", "1", 2, b"N"), 0, [1, 2], [2, 1])),
    ]);
    let view = [&b"("[..], &text("2"), &int(0), &int(2), b"t"].concat();
    let count = |count: u64| with(&|legacy| legacy.storages[..8].copy_from_slice(&count.to_le_bytes()));
    for (what, bytes, word) in [
        ("another number", with(&|legacy| legacy.magic[5] ^= 1), "plain pickle"),
        ("another version", with(&|legacy| legacy.version[3] ^= 1), "version"),
        (
            "a version that is a word",
            with(&|legacy| legacy.version = b"\x80\x02X\x01\0\0\0a.".to_vec()),
            "version",
        ),
        ("another byte order", with(&|legacy| legacy.machine = machine(false)), "little-endian"),
        ("no byte order", with(&|legacy| legacy.machine = b"\x80\x02}.".to_vec()), "byte order"),
        ("not a dict", with(&|legacy| legacy.machine = b"\x80\x02N.".to_vec()), "not a dict"),
        ("a missing key", with(&|legacy| legacy.keys = keys(&["17"])), "after its last storage"),
        (
            "a storage that is not there",
            with(&|legacy| {
                legacy.keys = keys(&["17"]);
                legacy.storages.truncate(32);
            }),
            "`9` is missing",
        ),
        ("a key of no tensor", with(&|legacy| legacy.keys = keys(&["17", "8"])), "no tensor uses"),
        ("a key twice", with(&|legacy| legacy.keys = keys(&["9", "9"])), "`9`"),
        ("keys that are numbers", with(&|legacy| legacy.keys = b"\x80\x02]K\x01a.".to_vec()), "not a string"),
        ("keys that are no list", with(&|legacy| legacy.keys = b"\x80\x02N.".to_vec()), "not a list"),
        ("a smaller count", count(5), "5 elements, but its tensors expect 6"),
        ("a count of 2^64 - 1", count(u64::MAX), "expect 6"),
        ("a stated size below 0", one(storage("FloatStorage", "1", -2, b"N")), "negative"),
        ("a stated size of 2^63 - 1", one(storage("FloatStorage", "1", i64::MAX, b"N")), "beyond the end"),
        (
            "more elements than there are, stated twice",
            with(&|legacy| {
                legacy.values =
                    values(&[("a", tensor(&storage("FloatStorage", "1", 1 << 40, b"N"), 0, [1, 2], [2, 1]))]);
                legacy.keys = keys(&["1"]);
                legacy.storages = [&(1_u64 << 40).to_le_bytes()[..], &[0; 8]].concat();
            }),
            "beyond the end",
        ),
        ("a stated size of 2^62", one(storage("DoubleStorage", "1", 1 << 62, b"N")), "beyond the end"),
        ("a smaller type", one(storage("HalfStorage", "1", 2, b"N")), "after its last storage"),
        ("a view of a storage", one(storage("FloatStorage", "1", 2, &view)), "part of another"),
        ("five parts", one(storage("FloatStorage", "1", 2, b"")), "six parts"),
        ("another type", one(storage("QInt8Storage", "1", 2, b"N")), "QInt8Storage"),
        ("two sizes", with(&|legacy| legacy.values = two_sizes.clone()), "two sizes"),
        (
            "a name that is no data",
            with(&|legacy| legacy.values = b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.".to_vec()),
            "os.system",
        ),
        ("an unknown opcode", with(&|legacy| legacy.values = b"\x80\x02\xff.".to_vec()), "0xff"),
        (
            "a name without an end",
            with(&|legacy| legacy.values = [&b"\x80\x02c"[..], &[b'a'; 2000]].concat()),
            "",
        ),
        (
            "a storage outside a tensor",
            with(&|legacy| legacy.values = b"\x80\x02NQ.".to_vec()),
            "not a tuple",
        ),
    ] {
        let error = load(&bytes).expect_err(what).to_string();
        assert!(error.contains(word), "{what}: {error}");
    }
}

#[test]
fn memory_stays_bounded() {
    // Each memoized list holds the one before it twice: 2^n values from 5 n bytes.
    let mut doubling = b"\x80\x02]q\0".to_vec();
    for at in 0..60_u8 {
        doubling.extend([b']', b'(', b'h', at, b'h', at, b'e', b'q', at + 1]);
    }
    doubling.push(b'.');
    for values in [doubling, [&b"\x80\x02"[..], &b"]".repeat(4 << 20), b"."].concat(), vec![b'N'; 4 << 20]] {
        let mut legacy = small();
        legacy.values = values;
        let bytes = legacy.bytes();
        let most = 2 * bytes.len() + (16 << 20);
        let source = Arc::new(bytes);
        let (result, peak) = peak_of(|| LegacyFile::from_source("file.bin", source));
        assert!(result.is_err() && peak <= most, "{peak} of {most} bytes");
    }
}
