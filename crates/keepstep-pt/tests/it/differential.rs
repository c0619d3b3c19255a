//! Compares the reader with `torch.load` on generated files: if it accepts a file, all values are equal bit by bit.
//!
//! KEEPSTEP_DIFFERENTIAL_FILES sets the number of files; `cargo xtask differential` takes ten thousand.

use keepstep_pt::{File, ReadError, Tensor, Value};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

const FILES: usize = 1500;
/// Larger views are only compared by type and shape.
const MOST_ELEMENTS: usize = 100_000;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn list(items: &[Value]) -> String {
    items.iter().map(describe).collect::<Vec<_>>().join(",")
}

/// Does the same as `describe` in differential.py.
fn describe(value: &Value) -> String {
    match value {
        Value::None => "N".to_owned(),
        Value::Bool(value) => if *value { "T" } else { "F" }.to_owned(),
        Value::Int(value) => {
            let mut bytes = value.to_le_bytes().to_vec();
            while let [.., before, last] = bytes[..]
                && ((last == 0 && before < 128) || (last == 255 && before >= 128))
            {
                bytes.pop();
            }
            format!("i{}", hex(&bytes))
        }
        Value::BigInt(bytes) => format!("i{}", hex(bytes)),
        Value::Float(value) => format!("f{}", hex(&value.to_be_bytes())),
        Value::Str(text) => format!("s{}", hex(text.as_bytes())),
        Value::Bytes(bytes) => format!("b{}", hex(bytes)),
        Value::List(items) => format!("[{}]", list(items)),
        Value::Tuple(items) => format!("({})", list(items)),
        Value::Dict(dict) | Value::OrderedDict(dict) => {
            let pairs: Vec<_> =
                dict.iter().map(|(key, value)| format!("{}:{}", describe(key), describe(value))).collect();
            let kind = if matches!(value, Value::OrderedDict(_)) { "O" } else { "" };
            format!("{kind}{{{}}}", pairs.join(","))
        }
        Value::Global(name) => format!("g{name}"),
        Value::Object { name, arguments } => object(name, arguments),
        Value::Tensor(tensor) => describe_tensor(tensor),
        other => panic!("{other:?}"),
    }
}

fn object(name: &str, arguments: &[Value]) -> String {
    match (name.rsplit('.').next(), arguments) {
        (Some("device" | "_get_layout"), [Value::Str(kind)]) => format!("g{kind}"),
        (Some("device"), [Value::Str(kind), Value::Int(index)]) => format!("g{kind}:{index}"),
        (Some("complex"), [Value::Float(real), Value::Float(imaginary)]) => {
            format!("c{}{}", hex(&real.to_be_bytes()), hex(&imaginary.to_be_bytes()))
        }
        (Some("set"), items) => {
            let mut items: Vec<_> =
                items.iter().flat_map(|items| items.as_list().expect("a list")).map(describe).collect();
            items.sort();
            items.dedup();
            format!("<{}>", items.join(","))
        }
        other => panic!("{other:?}"),
    }
}

fn describe_tensor(tensor: &Tensor) -> String {
    let shape = tensor.shape().iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let bytes = if tensor.num_elements() > MOST_ELEMENTS {
        "many".to_owned()
    } else {
        hex(&tensor.to_bytes().expect("its bytes"))
    };
    format!("ttorch.{} {shape} {bytes}", tensor.dtype())
}

/// The first words of a reason, without what differs from file to file.
fn class(reason: &str) -> String {
    let plain = |word: &str| word.chars().all(|char| char.is_ascii_alphabetic() || "_.,:;'`".contains(char));
    let line = reason.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let detail = reason.split("WeightsUnpickler error: ").nth(1).and_then(|rest| rest.lines().next());
    detail.unwrap_or(line).split_whitespace().filter(|word| plain(word)).take(9).collect::<Vec<_>>().join(" ")
}

#[test]
#[ignore = "needs PyTorch"]
fn what_is_accepted_is_what_torch_load_finds() {
    let python =
        std::env::var_os("KEEPSTEP_TORCH_PYTHON").expect("KEEPSTEP_TORCH_PYTHON names a Python with torch");
    let files =
        std::env::var("KEEPSTEP_DIFFERENTIAL_FILES").map_or(FILES, |files| files.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("files");
    let output = Command::new(python)
        .args(["-c", include_str!("differential.py")])
        .arg(&path)
        .arg(files.to_string())
        .output()
        .expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = std::fs::read(&path).expect("the files");
    let mut rest = all.as_slice();
    let mut take = |len: usize| {
        let (part, after) = rest.split_at(len);
        rest = after;
        part.to_vec()
    };
    let (mut same, mut neither) = (0, 0);
    let (mut only_ours, mut only_theirs) =
        (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    for number in 0..files {
        let lens = take(8);
        let len = |at: usize| u32::from_le_bytes(lens[at..at + 4].try_into().expect("four bytes")) as usize;
        let (bytes, theirs) = (take(len(0)), take(len(4)));
        let theirs = String::from_utf8(theirs).expect("UTF-8");
        let ours = File::from_source(format!("file {number}"), Arc::new(bytes))
            .and_then(|file| file.verify().map(|_| describe(file.value())));
        match (ours, theirs.strip_prefix('!')) {
            (Ok(ours), None) => {
                assert!(ours == theirs, "file {number}:\nkeepstep {ours}\nPyTorch  {theirs}");
                same += 1;
            }
            (Err(_), Some(_)) => neither += 1,
            (Ok(_), Some(reason)) => *only_ours.entry(class(reason)).or_default() += 1,
            (Err(ReadError::Corrupt { reason, .. } | ReadError::Unsupported { what: reason, .. }), None) => {
                *only_theirs.entry(class(&reason)).or_default() += 1;
            }
            (Err(error), None) => panic!("file {number}: {error}"),
        }
    }
    println!("{files} files: {same} read alike, {neither} refused by both");
    for (who, classes) in [("keepstep alone reads", &only_ours), ("PyTorch alone reads", &only_theirs)] {
        println!("{who} {}:", classes.values().sum::<usize>());
        classes.iter().for_each(|(class, count)| println!("  {count:5} {class}"));
    }
    assert!(same * 2 > files, "most files are read: {same} of {files}");
}
