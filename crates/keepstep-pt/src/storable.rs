//! Finds values that would not be read back as they were written.

use crate::Value;
use crate::rebuild::{DEEPEST, check_key};
use crate::value::shortest_int;
use thiserror::Error;

/// The longest int, in bytes, that the pickle protocol of PyTorch's files can hold.
const LONGEST_INT: usize = 255;

/// A value that a `.pt` file cannot hold, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{path}` is {what}, which a .pt file cannot hold")]
#[non_exhaustive]
pub struct NotStorable {
    /// The value's path in the root, such as `state.0.foo`.
    pub path: String,
    /// A description of the value.
    pub what: &'static str,
}

impl Value {
    /// Checks that a file with this value can be read again and gives an equal value.
    ///
    /// # Errors
    /// The value contains something that the writer cannot represent (`bytes`, a name, a `torch.device`), that is nested
    /// too deep, or that is not a valid key. The error names the first such place.
    pub fn check_storable(&self) -> Result<(), NotStorable> {
        check(self, &mut Vec::new()).map_err(|(path, what)| NotStorable { path: path.join("."), what })
    }
}

fn check(value: &Value, path: &mut Vec<String>) -> Result<(), (Vec<String>, &'static str)> {
    let refuse = |what| Err((path.clone(), what));
    if path.len() > DEEPEST {
        return refuse("nested too deep");
    }
    match value {
        Value::Bytes(_) => refuse("a bytes object"),
        Value::Global(_) => refuse("a name such as torch.float32"),
        Value::Object { .. } => refuse("an object such as torch.device"),
        Value::BigInt(bytes) => match shortest_int(bytes).len() {
            0..=8 => refuse("an int of 64 bits in the form of a longer one"),
            9..=LONGEST_INT => Ok(()),
            _ => refuse("an int of more than 255 bytes"),
        },
        Value::Str(text) if u32::try_from(text.len()).is_err() => refuse("a string of more than 4 GiB"),
        Value::List(items) | Value::Tuple(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(index.to_string());
                check(item, path)?;
                path.pop();
            }
            Ok(())
        }
        Value::Dict(dict) | Value::OrderedDict(dict) => {
            for (key, item) in dict.iter() {
                path.push(key_name(key));
                if check_key(key).is_err() {
                    return Err((path.clone(), "under a key that no dict can have"));
                }
                check(key, path)?;
                check(item, path)?;
                path.pop();
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn key_name(key: &Value) -> String {
    match key {
        Value::Str(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Archive, Dict, File};
    use std::sync::Arc;

    fn is_read_back(value: &Value) -> bool {
        let mut bytes = Vec::new();
        Archive::new(value).write_to(&mut bytes).expect("memory takes everything");
        File::from_source("x.pt", Arc::new(bytes)).is_ok_and(|file| file.value() == value)
    }

    #[test]
    fn what_is_refused_would_not_come_back_and_is_named_by_its_path() {
        let mut deep = Value::None;
        for _ in 0..=DEEPEST {
            deep = Value::List(vec![deep]);
        }
        let long = Value::BigInt([vec![1; LONGEST_INT], vec![1]].concat());
        let device = Value::Object { name: "torch.device".to_owned(), arguments: vec!["cpu".into()] };
        let float32 = Value::Global("torch.float32".to_owned());
        let short = Value::BigInt(vec![1, 0]);
        for bad in [deep, long, short, device, float32, Value::Bytes(vec![1])] {
            let mut state = Dict::new();
            state.insert(3_i64, Value::List(vec![Value::None, bad]));
            let mut root = Dict::new();
            root.insert("state", state);
            let root = Value::Dict(root);
            let error = root.check_storable().expect_err("it cannot be stored");
            assert!(error.path.starts_with("state.3.1"), "{error}");
            assert!(!is_read_back(&root), "{error}");
        }
        let mut dict = Dict::new();
        dict.insert(Value::List(Vec::new()), 1_i64);
        assert!(Value::Dict(dict).check_storable().is_err());
    }

    #[test]
    fn ints_of_every_length_come_back() {
        for value in [0, 1, u64::MAX >> 1, 1 << 63, u64::MAX] {
            let stored = Value::from(value);
            assert_eq!(stored.as_u64(), Some(value));
            assert!(stored.check_storable().is_ok() && is_read_back(&stored), "{value}");
        }
        for value in
            [Value::Int(-1), Value::BigInt(vec![0xff; 9]), Value::BigInt([vec![0; 8], vec![1, 1]].concat())]
        {
            assert_eq!(value.as_u64(), None, "{value:?}");
        }
    }
}
