//! Damaged and hostile files: noticed, refused, never a panic, never much memory.

mod raw_zip;

use keepstep_pt::{Archive, Dict, File, ReadError, Tensor, Value};
use raw_zip::with_pickle;
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
fn every_flipped_bit_is_noticed_or_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file.pt");
    let (value, mut bytes) = small_file();
    let mut harmless = 0;
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = load(&path, &bytes) {
            assert_eq!(read, value, "bit {bit}");
            harmless += 1;
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    // Versions, dates and padding, which no reader looks at.
    assert!(harmless * 3 < bytes.len() * 8, "{harmless} of {} bits go unnoticed", bytes.len() * 8);
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
        ("a name that is no data", b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.".to_vec()),
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
