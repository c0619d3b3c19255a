//! `keepstep inspect`: show the contents of a checkpoint or any other `.pt` file.

use crate::failure::Failure;
use crate::format::{num_bytes, scalar};
use crate::output;
use keepstep_pt::{Checksums, Dict, File, Value};
use serde_json::json;
use std::fmt::Write;
use std::path::Path;

pub(crate) fn run(path: &Path, json: bool) -> Result<(), Failure> {
    let (root, checksums) = match crate::checkpoints::url(path) {
        // Of a remote file everything is read but the tensors.
        Some(url) => (crate::remote::with_file(url, |file| Ok(file.value().clone()))?, Ok(None)),
        None => {
            let file = File::open(path)?;
            // Comparing them reads the whole file.
            (file.value().clone(), file.verify().map(Some))
        }
    };
    if json {
        let state = match &checksums {
            Ok(Some(Checksums::Verified)) => "verified".to_owned(),
            Ok(None) => "verified, but for the tensors".to_owned(),
            Ok(_) => "none".to_owned(),
            Err(error) => format!("damaged: {error}"),
        };
        let tree = json!({ "path": path.display().to_string(), "checksums": state, "root": to_json(&root) });
        output::print_json(&tree)?;
    } else {
        let mut text = format!("{}\nChecksums: ", path.display());
        text.push_str(match &checksums {
            Ok(Some(Checksums::Verified)) => "all match\n",
            Ok(None) => "all match but for the tensors: `keepstep verify` reads the whole file\n",
            Ok(_) => "none in this file, so damage cannot be detected\n",
            Err(_) => "DAMAGED\n",
        });
        tree(&mut text, &root, 0);
        output::print(&text)?;
    }
    checksums?;
    Ok(())
}

/// One line per value, children indented.
fn tree(text: &mut String, value: &Value, depth: usize) {
    let entries = |text: &mut String, dict: &Dict| {
        for (key, value) in dict.iter() {
            let _ = write!(text, "{:1$}{2}: ", "", depth * 2, scalar(key));
            item(text, value, depth);
        }
    };
    match value {
        Value::Dict(dict) | Value::OrderedDict(dict) => entries(text, dict),
        Value::List(items) | Value::Tuple(items) => {
            for (index, value) in items.iter().enumerate() {
                let _ = write!(text, "{:1$}[{index}]: ", "", depth * 2);
                item(text, value, depth);
            }
        }
        other => {
            let _ = writeln!(text, "{:1$}{2}", "", depth * 2, scalar(other));
        }
    }
}

fn item(text: &mut String, value: &Value, depth: usize) {
    let (kind, len) = match value {
        Value::Dict(dict) => ("dict", dict.len()),
        Value::OrderedDict(dict) => ("OrderedDict", dict.len()),
        Value::List(items) if items.iter().any(is_nested) => ("list", items.len()),
        Value::Tuple(items) if items.iter().any(is_nested) => ("tuple", items.len()),
        other => {
            let _ = writeln!(text, "{}", scalar(other));
            return;
        }
    };
    let _ = writeln!(text, "{kind} of {len}");
    tree(text, value, depth + 1);
}

fn is_nested(value: &Value) -> bool {
    matches!(value, Value::Dict(_) | Value::OrderedDict(_) | Value::Tensor(_))
}

fn to_json(value: &Value) -> serde_json::Value {
    let entries = |dict: &Dict| -> serde_json::Value {
        dict.iter()
            .map(|(key, value)| (scalar(key), to_json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    match value {
        Value::None => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        // JSON has no NaN and no infinity.
        Value::Float(value) if !value.is_finite() => format!("{value}").into(),
        Value::Float(value) => (*value).into(),
        Value::Str(value) => value.as_str().into(),
        Value::List(items) | Value::Tuple(items) => items.iter().map(to_json).collect(),
        Value::Dict(dict) | Value::OrderedDict(dict) => entries(dict),
        Value::Tensor(tensor) => json!({
            "dtype": tensor.dtype().to_string(), "shape": tensor.shape(), "bytes": num_bytes(tensor),
        }),
        other => scalar(other).into(),
    }
}
