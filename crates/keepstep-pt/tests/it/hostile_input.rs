//! Damaged and hostile files are refused without a panic and without much memory.

use super::raw_zip::{RawEntry, archive, with_pickle};
use keepstep_pt::{Archive, Dict, File, ReadError, Tensor, Value};
use std::path::Path;

fn small_file() -> (Value, Vec<u8>) {
    let mut dict = Dict::new();
    dict.insert("epoch", 3_i64);
    dict.insert("loss", 0.5);
    dict.insert("weight", Tensor::from_slice(&[1.0_f32, 2.0, 3.0], vec![3]));
    dict.insert("names", vec![Value::from("a"), Value::from("b")]);
    let value = Value::Dict(dict);
    let mut bytes = Vec::new();
    Archive::new(&value).write_to(&mut bytes).expect("written");
    (value, bytes)
}

/// The value, if file and checksums are accepted.
fn load(path: &Path, bytes: &[u8]) -> Result<Value, ReadError> {
    std::fs::write(path, bytes).expect("written");
    let file = File::open(path)?;
    file.verify()?;
    Ok(file.value().clone())
}

#[test]
fn every_truncation_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, bytes) = small_file();
    for len in 0..bytes.len() {
        let error = load(&folder.path().join("file.pt"), &bytes[..len]).expect_err("a truncated file");
        assert!(matches!(error, ReadError::Corrupt { .. }), "{len}: {error}");
    }
}

#[test]
fn appended_bytes_are_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, mut bytes) = small_file();
    bytes.push(0);
    assert!(load(&folder.path().join("file.pt"), &bytes).is_err());
}

fn read_pickle(pickle: &[u8]) -> Result<Value, ReadError> {
    let folder = tempfile::tempdir().expect("a folder");
    load(&folder.path().join("file.pt"), &with_pickle(pickle))
}

/// A tensor over the 16 bytes of `data/0` with a numel, an offset, a size and a stride of 8 bytes each.
fn tensor_pickle(numel: i64, offset: i64, size: i64, stride: i64) -> Vec<u8> {
    let long = |value: i64| [&[0x8a, 8][..], &value.to_le_bytes()].concat();
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    [
        &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        &long(numel),
        b"tQ",
        &long(offset),
        &long(size),
        b"\x85",
        &long(stride),
        b"\x85\x89N",
        b"tR.",
    ]
    .concat()
}

#[test]
fn tensors_whose_numbers_lie() {
    let read = read_pickle(&tensor_pickle(4, 0, 4, 1)).expect("an honest tensor");
    assert_eq!(read.as_tensor().expect("a tensor").shape(), [4]);
    for (numel, offset, size, stride) in [
        (5, 0, 4, 1),
        (4, 1, 4, 1),
        (4, 0, 5, 1),
        (4, 0, 4, 2),
        (4, -1, 4, 1),
        (4, 0, -4, 1),
        (4, 0, 4, -1),
        (4, i64::MAX, 4, 1),
        (4, 0, i64::MAX, 1),
        (4, 0, 4, i64::MAX),
        (i64::MAX, 0, 4, 1),
        (-1, 0, 4, 1),
    ] {
        let result = read_pickle(&tensor_pickle(numel, offset, size, stride));
        assert!(
            matches!(result, Err(ReadError::Corrupt { .. })),
            "{numel} {offset} {size} {stride}: {result:?}"
        );
    }
}

#[test]
fn an_endlessly_repeated_element_is_not_copied() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file.pt");
    std::fs::write(&path, with_pickle(&tensor_pickle(4, 0, 1 << 40, 0))).expect("written");
    let file = File::open(&path).expect("a view of one element");
    let tensor = file.value().as_tensor().expect("a tensor");
    assert!(tensor.to_vec::<f32>().is_err());
    assert!(tensor.to_bytes().is_err());
}

#[test]
fn pickles_that_want_too_much() {
    let nested = |open: &[u8], close: &[u8], depth: usize| {
        [&b"\x80\x02"[..], &open.repeat(depth), &close.repeat(depth), b"."].concat()
    };
    // Each memoized list holds the one before it twice: 2^n values from 5 n bytes.
    let mut doubling = b"\x80\x02]q\0".to_vec();
    for at in 0..60_u8 {
        doubling.extend([b']', b'(', b'h', at, b'h', at, b'e', b'q', at + 1]);
    }
    doubling.push(b'.');
    let mut duplicates = b"\x80\x02]".to_vec();
    duplicates.extend([b'2'; 100_000]);
    duplicates.push(b'.');
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("deep lists", nested(b"](", b"e", 200_000)),
        ("deep tuples", nested(b"(", b"t", 200_000)),
        ("doubling", doubling),
        ("duplicates", duplicates),
        ("a list that contains itself", b"\x80\x02]q\0h\0a.".to_vec()),
        ("a string of 4 GiB", b"\x80\x02X\xff\xff\xff\xff.".to_vec()),
        ("bad UTF-8", b"\x80\x02X\x02\0\0\0\xc3\x28.".to_vec()),
        ("a long of 255 bytes that are not there", b"\x80\x02\x8a\xff\x01.".to_vec()),
        ("a long of 2 GiB", b"\x80\x02\x8b\xff\xff\xff\x7f.".to_vec()),
        ("an empty stack", b"\x80\x02.".to_vec()),
        ("no mark", b"\x80\x02t.".to_vec()),
        ("a function", b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.".to_vec()),
        ("a newer protocol", b"\x80\x04N.".to_vec()),
        ("half a pair", b"\x80\x02}(NNNu.".to_vec()),
        ("something after the end", b"\x80\x02N.N".to_vec()),
        ("an unknown opcode", b"\x80\x02\xff.".to_vec()),
        ("a list as a key", b"\x80\x02}]Ns.".to_vec()),
    ];
    for (what, pickle) in cases {
        let result = read_pickle(&pickle);
        assert!(
            matches!(result, Err(ReadError::Corrupt { .. } | ReadError::Unsupported { .. })),
            "{what} was accepted"
        );
    }
}

#[test]
fn ints_of_any_length_are_read() {
    assert_eq!(read_pickle(b"\x80\x02\x8a\0.").expect("zero"), Value::Int(0));
    assert_eq!(read_pickle(b"\x80\x02\x8a\x01\xff.").expect("minus one"), Value::Int(-1));
    let long = [&b"\x80\x02\x8a\xff"[..], &[0x80; 255], b"."].concat();
    assert_eq!(read_pickle(&long).expect("a long int"), Value::BigInt(vec![0x80; 255]));
}

#[test]
fn other_kinds_of_files_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file.pt");
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, word) in [
        (&b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."[..], "legacy"),
        (&tar, "tar"),
        (b"\x80\x04N.", "pickle"),
        (b"", "empty"),
        (b"hello", "begin"),
    ] {
        let error = load(&path, bytes).expect_err("another kind of file");
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = File::open(folder.path()).expect_err("a folder");
    assert!(error.to_string().contains("folder"), "{error}");
    let error = File::open("/dev/null").expect_err("a device");
    assert!(error.to_string().contains("regular"), "{error}");
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let error = File::open(&fifo).expect_err("a FIFO");
    assert!(error.to_string().contains("regular"), "{error}");
    assert!(matches!(File::open(folder.path().join("none")), Err(ReadError::NotFound { .. })));
}

#[test]
fn a_file_that_becomes_shorter_gives_an_error_and_no_zeros() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file.pt");
    let (_, bytes) = small_file();
    std::fs::write(&path, &bytes).expect("written");
    let file = File::open(&path).expect("it opens");
    std::fs::File::options().write(true).open(&path).expect("the file").set_len(100).expect("cut");
    let weight = file.value().as_dict().and_then(|dict| dict.get("weight")?.as_tensor()).expect("the weight");
    assert!(weight.to_vec::<f32>().is_err());
}

#[test]
fn files_without_checksums_are_accepted_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file.pt");
    let mut bytes = with_pickle(b"\x80\x02N.");
    for at in 0..bytes.len() - 4 {
        match &bytes[at..at + 4] {
            b"PK\x03\x04" => bytes[at + 14..at + 18].fill(0),
            b"PK\x01\x02" => bytes[at + 16..at + 20].fill(0),
            _ => {}
        }
    }
    std::fs::write(&path, bytes).expect("written");
    let file = File::open(&path).expect("it opens");
    assert_eq!(file.verify().expect("nothing to check"), keepstep_pt::Checksums::NotChecksummed);
}

/// Entries of an honest small file, for tests that make one of them lie.
fn honest_entries() -> Vec<RawEntry> {
    vec![
        RawEntry::new("archive/data.pkl", b"\x80\x02N."),
        RawEntry::new("archive/data/0", &[1; 16]),
        RawEntry::new("archive/data/1", &[2; 16]),
        RawEntry::new("archive/version", b"3\n"),
    ]
}

/// Reads the honest file with this entry in the place of `data/1`.
fn with_entry(entry: RawEntry) -> Result<Value, ReadError> {
    let mut entries = honest_entries();
    entries[2] = entry;
    load_bytes(&archive(&entries))
}

fn load_bytes(bytes: &[u8]) -> Result<Value, ReadError> {
    let source = std::sync::Arc::new(bytes.to_vec());
    let values = File::values_from_source("file.pt", std::sync::Arc::clone(&source) as _);
    let file = File::from_source("file.pt", source)?;
    file.verify()?;
    assert!(values.is_ok(), "a valid file whose values cannot be read: {values:?}");
    Ok(file.value().clone())
}

#[test]
fn records_that_lie() {
    let entry = || RawEntry::new("archive/data/1", &[2; 16]);
    assert_eq!(with_entry(entry()).expect("an honest file"), Value::None);
    let descriptor = entry().with(|record| record.flags = 8);
    assert_eq!(with_entry(descriptor.clone()).expect("an honest descriptor"), Value::None);
    let cases: Vec<(&str, RawEntry)> = vec![
        ("another size in the directory", entry().with_central(|record| record.size = 15)),
        (
            "a size beyond the file",
            entry().with(|record| (record.size, record.compressed) = (1 << 30, 1 << 30)),
        ),
        ("a size over the next entry", entry().with(|record| (record.size, record.compressed) = (64, 64))),
        ("two sizes", entry().with(|record| record.compressed = 8)),
        ("another checksum in the directory", entry().with_central(|record| record.crc ^= 1)),
        ("a wrong checksum in both", entry().with(|record| record.crc ^= 1)),
        (
            "another name in the directory",
            entry().with_central(|record| record.name = b"archive/data/2".to_vec()),
        ),
        ("another flag in the directory", entry().with_central(|record| record.flags = 0x0800)),
        ("another method in the directory", entry().with_central(|record| record.method = 8)),
        ("encrypted", entry().with(|record| record.flags = 1)),
        ("strongly encrypted", entry().with(|record| record.flags = 0x41)),
        ("an encrypted directory", entry().with(|record| record.flags = 0x2000)),
        ("deflated", entry().with(|record| record.method = 8)),
        ("a deflate bomb", entry().with(|record| (record.method, record.size) = (8, u32::MAX - 1))),
        (
            "a zip64 size of 2^63",
            entry().with_central(|record| {
                (record.size, record.compressed) = (u32::MAX, u32::MAX);
                record.extra = [&[1, 0, 16, 0][..], &[0xff; 7], &[0x7f], &[0xff; 7], &[0x7f]].concat();
            }),
        ),
        (
            "a zip64 field that is cut short",
            entry().with_central(|record| {
                record.size = u32::MAX;
                record.extra = vec![1, 0, 16, 0, 1];
            }),
        ),
        ("a descriptor that is not there", entry().with(|record| record.flags = 8).without_descriptor()),
        ("the header of another entry", RawEntry { header_of: Some(1), ..entry() }),
        ("the same name twice", RawEntry::new("archive/data/0", &[2; 16])),
        ("a folder above", RawEntry::new("archive/../../etc/passwd", b"")),
        ("an absolute name", RawEntry::new("/etc/passwd", b"")),
        ("a name of Windows", RawEntry::new("archive\\data\\1", b"")),
        ("a name with an empty part", RawEntry::new("archive//data", b"")),
        ("a name that is not UTF-8", entry().with(|record| record.name = b"archive/\xff".to_vec())),
        ("no name", RawEntry::new("", b"")),
        ("TorchScript", RawEntry::new("archive/code/__torch__.py", b"")),
        ("TorchScript's constants", RawEntry::new("archive/constants.pkl", b"\x80\x02).")),
        ("a big-endian file", RawEntry::new("archive/byteorder", b"big")),
        ("an unknown byte order", RawEntry::new("archive/byteorder", b"middle")),
    ];
    for (what, entry) in cases {
        let result = with_entry(entry);
        assert!(
            matches!(result, Err(ReadError::Corrupt { .. } | ReadError::Unsupported { .. })),
            "{what}: {result:?}"
        );
    }
    let error = with_entry(RawEntry::new("archive/byteorder", b"big")).expect_err("a big-endian file");
    assert!(error.to_string().contains("byte order"), "{error}");
    let error = with_entry(entry().with(|record| record.flags = 1)).expect_err("an encrypted entry");
    assert!(error.to_string().contains("encrypted"), "{error}");
    let mut without_version = honest_entries();
    without_version.pop();
    assert!(load_bytes(&archive(&without_version)).is_err());
}

#[test]
fn end_records_that_lie() {
    let bytes = archive(&honest_entries());
    let end = bytes.len() - 22;
    // Disks, counts, size, start and comment.
    for (at, value) in
        [(4, 1), (6, 1), (8, 9), (10, 9), (12, 1), (16, 1), (20, 1), (11, 255), (15, 255), (19, 255)]
    {
        let mut bytes = bytes.clone();
        bytes[end + at] = value;
        assert!(load_bytes(&bytes).is_err(), "{value} at {at}");
    }
}

#[test]
fn every_flipped_bit_of_a_file_with_every_kind_of_value() {
    let storage = keepstep_pt::Storage::from_vec((0..12).map(|value| value as f32).collect::<Vec<_>>());
    let view = |offset, shape, strides| {
        Value::from(Tensor::strided(storage.clone(), offset, shape, strides).expect("a view"))
    };
    let mut dict = Dict::new();
    dict.insert("whole", Tensor::new(storage.clone(), vec![3, 4]));
    dict.insert("columns", view(1, vec![3, 2], vec![4, 2]));
    dict.insert("one", view(5, vec![], vec![]));
    dict.insert("empty", Tensor::from_slice::<i64>(&[], vec![0, 2]));
    dict.insert("unsigned", Tensor::from_slice(&[1_u16, 2], vec![2]));
    dict.insert(7_i64, vec![Value::Bool(true), Value::None, Value::Int(-1), Value::Int(1 << 40), 0.5.into()]);
    dict.insert("tuple", Value::Tuple(vec!["é".into(), Value::OrderedDict(Dict::new())]));
    let mut bytes = Vec::new();
    Archive::new(&dict.into()).write_to(&mut bytes).expect("written");
    let whole = describe(&load_bytes(&bytes).expect("it is read"));
    let mut accepted = 0;
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = load_bytes(&bytes) {
            assert_eq!(describe(&read), whole, "bit {bit}");
            accepted += 1;
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(accepted > 0 && accepted * 3 < bytes.len() * 8, "{accepted} of {} bits", bytes.len() * 8);
    for len in 0..bytes.len() {
        assert!(load_bytes(&bytes[..len]).is_err(), "cut to {len}");
    }
}

/// A value with its tensors' types, views and bytes.
fn describe(value: &Value) -> String {
    match value {
        Value::Tensor(tensor) => format!(
            "{} {:?} {:?} {} {:?}",
            tensor.dtype(),
            tensor.shape(),
            tensor.strides(),
            tensor.offset(),
            tensor.to_bytes().expect("its bytes")
        ),
        Value::List(items) => format!("{:?}", items.iter().map(describe).collect::<Vec<_>>()),
        Value::Tuple(items) => format!("tuple {:?}", items.iter().map(describe).collect::<Vec<_>>()),
        Value::Dict(dict) | Value::OrderedDict(dict) => {
            let kind = matches!(value, Value::OrderedDict(_));
            let pairs: Vec<_> = dict.iter().map(|(key, value)| (describe(key), describe(value))).collect();
            format!("{kind} {pairs:?}")
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn random_flips_in_a_large_file_are_noticed() {
    let mut dict = Dict::new();
    let values: Vec<f32> = (0..5 << 20).map(|at| at as f32).collect();
    dict.insert("large", Tensor::from_slice(&values, vec![values.len()]));
    dict.insert("small", 1_i64);
    let mut bytes = Vec::new();
    Archive::new(&dict.into()).write_to(&mut bytes).expect("written");
    let source = std::sync::Arc::new(Flipped { bytes, ..Flipped::default() });
    let verify = || File::from_source("large.pt", std::sync::Arc::clone(&source) as _)?.verify_at_once();
    verify().expect("a whole file");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..200 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The first 4 KiB and the last hold bits that no reader looks at.
        let bit =
            8 * (4096 + (random >> 20) as usize % (source.bytes.len() - 8192)) + (random >> 13) as usize % 8;
        source.bit.store(bit, std::sync::atomic::Ordering::Relaxed);
        let error = verify().expect_err("a flipped bit");
        assert!(error.to_string().contains("data/0"), "bit {bit}: {error}");
        let file = File::from_source("large.pt", std::sync::Arc::clone(&source) as _).expect("it opens");
        let error = tensor(&file, "large").to_vec::<f32>().expect_err("a flipped bit");
        assert!(error.to_string().contains("data/0"), "bit {bit}: {error}");
    }
}

#[test]
fn the_values_alone_are_read_from_the_two_ends() {
    let mut model = Dict::new();
    for at in 0..20 {
        model.insert(format!("layer {at}"), Tensor::from_slice(&vec![at as f32; 1 << 16], vec![1 << 16]));
    }
    let mut dict = Dict::new();
    dict.insert("model", model);
    dict.insert("global_step", 7_i64);
    let mut bytes = Vec::new();
    Archive::new(&dict.into()).write_to(&mut bytes).expect("written");
    let source = std::sync::Arc::new(Flipped { bytes, ..Flipped::default() });
    let values = || File::values_from_source("file.pt", std::sync::Arc::clone(&source) as _);
    let file = values().expect("a whole file");
    assert!(source.num_bytes_read() < 10_000, "{} bytes were read", source.num_bytes_read());
    let dict = file.value().as_dict().expect("a dict");
    assert_eq!(dict.get("global_step"), Some(&Value::Int(7)));
    let model = dict.get("model").expect("the model");
    let layer = |at: usize| model.as_dict()?.get(format!("layer {at}").as_str())?.as_tensor();
    let tensor = layer(19).expect("a tensor");
    assert_eq!(tensor.shape(), [1 << 16]);
    // A tensor is read when it is needed, and compared with its checksum and its header.
    assert_eq!(tensor.to_vec::<f32>().expect("its elements"), vec![19.0; 1 << 16]);
    assert!((1 << 18..(1 << 18) + 20_000).contains(&source.num_bytes_read()), "{}", source.num_bytes_read());
    file.will_read(model);
    let announced = source.announced();
    assert_eq!(announced.len(), 1, "one range: {announced:?}");
    assert!(
        (20 << 18..(20 << 18) + 5000).contains(&(announced[0].end - announced[0].start)),
        "{announced:?}"
    );
    let [first, last] = [&layer(0), &layer(19)].map(|layer| layer.expect("a tensor"));
    file.will_read(&Value::List(vec![Value::Tensor(last.clone()), Value::Tensor(first.clone())]));
    let [_, one, other] = &source.announced()[..] else { panic!("two ranges: {:?}", source.announced()) };
    assert!(one.start == announced[0].start && other.end == announced[0].end && one.end < other.start);
    let header = source.bytes.windows(14).position(|part| part == b"archive/data/3").expect("a header");
    for bit in [8 * (header - 4), 8 * (header + 13)] {
        source.bit.store(bit, std::sync::atomic::Ordering::Relaxed);
        let file = values().expect("its values are whole");
        let model = file.value().as_dict().and_then(|dict| dict.get("model")?.as_dict()).expect("the model");
        let read = |at: &str| model.get(at).and_then(Value::as_tensor).expect("a tensor").to_vec::<f32>();
        let error = read("layer 3").expect_err("its header is damaged").to_string();
        assert!(error.contains("data/3") && error.contains("disagrees with the directory"), "{error}");
        assert!(read("layer 2").is_ok());
    }

    // What is read is compared with its checksum, each bit of it; a bit of a tensor stays unseen.
    let pickle = source.bytes.windows(4).position(|part| part == b"\x80\x02}q").expect("the pickle");
    let mut refused = 0;
    for bit in 8 * pickle..8 * (pickle + 200) {
        source.bit.store(bit, std::sync::atomic::Ordering::Relaxed);
        let error = values().expect_err("a flipped bit of the pickle").to_string();
        refused += usize::from(error.contains("checksum of its entry"));
    }
    assert_eq!(refused, 1600);
    source.bit.store(8 * (source.bytes.len() / 2), std::sync::atomic::Ordering::Relaxed);
    assert_eq!(values().expect("its values are whole").value().as_dict().map(Dict::len), Some(2));
    let whole = File::from_source("file.pt", std::sync::Arc::clone(&source) as _);
    assert!(whole.and_then(|file| file.verify()).is_err());
}

#[test]
fn a_tensor_that_was_read_whole_is_not_read_again_to_verify_it() {
    let storage = keepstep_pt::Storage::from_vec((0..3 << 20).map(|at| at as f32).collect());
    let half = vec![storage.len() as usize / 2];
    let mut dict = Dict::new();
    dict.insert("whole", Tensor::from_slice(&vec![1.0_f32; 4 << 20], vec![4 << 20]));
    dict.insert("small", Tensor::from_slice(&[1_i64, 2, 3], vec![3]));
    dict.insert("half", Tensor::strided(storage, 0, half, vec![1]).expect("a view"));
    let mut bytes = Vec::new();
    Archive::new(&dict.into()).write_to(&mut bytes).expect("written");
    let source = std::sync::Arc::new(Flipped { bytes, ..Flipped::default() });
    let open = || File::from_source("file.pt", std::sync::Arc::clone(&source) as _).expect("it opens");
    let read_to_verify = |file: &File| {
        let before = source.num_bytes_read();
        file.verify_rest().expect("a whole file");
        source.num_bytes_read() - before
    };
    assert!(read_to_verify(&open()) > 28 << 20, "nothing was read before");
    let file = open();
    for name in ["whole", "small", "half"] {
        tensor(&file, name).to_bytes().expect("its bytes");
    }
    let rest = read_to_verify(&file);
    assert!((12 << 20..13 << 20).contains(&rest), "only the storage that was read in part: {rest} bytes");

    // Damage outside what was read is still found.
    let file = open();
    tensor(&file, "half").to_bytes().expect("its bytes");
    let last_byte_of_the_view = source.bytes.len() - (64 << 10);
    source.bit.store(8 * last_byte_of_the_view, std::sync::atomic::Ordering::Relaxed);
    assert!(file.verify_rest().is_err());
}

fn tensor<'a>(file: &'a File, name: &str) -> &'a Tensor {
    file.value().as_dict().and_then(|dict| dict.get(name)?.as_tensor()).expect("a tensor")
}

/// Bytes of which one bit is read wrongly. Counts what is read.
#[derive(Debug)]
struct Flipped {
    bytes: Vec<u8>,
    bit: std::sync::atomic::AtomicUsize,
    num_bytes_read: std::sync::atomic::AtomicUsize,
    announced: std::sync::Mutex<Vec<std::ops::Range<u64>>>,
}

impl Default for Flipped {
    /// No bytes, and no bit that is wrong.
    fn default() -> Flipped {
        Flipped {
            bytes: Vec::new(),
            bit: usize::MAX.into(),
            num_bytes_read: 0.into(),
            announced: Default::default(),
        }
    }
}

impl Flipped {
    fn num_bytes_read(&self) -> usize {
        self.num_bytes_read.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn announced(&self) -> Vec<std::ops::Range<u64>> {
        self.announced.lock().expect("no thread has panicked").clone()
    }
}

impl keepstep_pt::ReadAt for Flipped {
    fn will_read(&self, range: std::ops::Range<u64>) {
        self.announced.lock().expect("no thread has panicked").push(range);
    }

    fn len_bytes(&self) -> std::io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> std::io::Result<()> {
        keepstep_pt::ReadAt::read_exact_at(&self.bytes, out, offset)?;
        self.num_bytes_read.fetch_add(out.len(), std::sync::atomic::Ordering::Relaxed);
        let bit = self.bit.load(std::sync::atomic::Ordering::Relaxed);
        if let Some(byte) = (bit / 8).checked_sub(offset as usize).and_then(|at| out.get_mut(at)) {
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }
}

#[test]
fn what_pytorch_would_understand_otherwise_is_refused_or_understood_alike() {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let with_metadata = |metadata: &[u8]| {
        let whole = tensor_pickle(4, 0, 4, 1);
        [&whole[..whole.len() - 3], metadata, b"tR."].concat()
    };
    assert!(read_pickle(&with_metadata(b"}")).is_ok());
    let refused: Vec<(&str, Vec<u8>)> = vec![
        ("a conjugated tensor", with_metadata(&[&b"}"[..], &text("conj"), b"\x88s"].concat())),
        ("a list that grows after a call", b"\x80\x02](ccollections\nOrderedDict\n]q\0\x85Rh\0]ae.".to_vec()),
        ("state of a tensor", {
            let whole = tensor_pickle(4, 0, 4, 1);
            [&whole[..whole.len() - 1], b"}b."].concat()
        }),
        ("state of a list", b"\x80\x02]}b.".to_vec()),
        ("a Counter of a list", b"\x80\x02ccollections\nCounter\n]\x85R.".to_vec()),
        (
            "a name in a place that is not used",
            b"\x80\x02ccollections\nOrderedDict\n)Rcos\nsystem\nb.".to_vec(),
        ),
        ("POP", b"\x80\x02NN0.".to_vec()),
        ("DUP", b"\x80\x02]2a.".to_vec()),
        ("NEWOBJ", b"\x80\x02ccollections\nOrderedDict\n)\x81.".to_vec()),
        ("a set of lists", b"\x80\x02c__builtin__\nset\n](]e\x85R.".to_vec()),
    ];
    for (what, pickle) in refused {
        assert!(read_pickle(&pickle).is_err(), "{what} was accepted");
    }
    // Python's dict takes 1 and True for one key.
    let dict = read_pickle(b"\x80\x02}(K\x01K\x02\x88K\x03u.").expect("a dict");
    assert_eq!(dict.as_dict().map(Dict::len), Some(1));
    assert_eq!(read_pickle(b"\x80\x02\x8a\x0a\x05\0\0\0\0\0\0\0\0\0.").expect("five"), Value::Int(5));
}
