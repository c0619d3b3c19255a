//! A dict that keeps the order of insertion.

use crate::Value;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Keys and values in the order of insertion. A key may be any value that Python can hash.
#[derive(Debug, Clone, Default)]
pub struct Dict {
    entries: Vec<(Value, Value)>,
    /// Hash and index of every key. Empty while a scan is fast enough.
    index: BTreeSet<(u64, usize)>,
}

/// Lookups scan dicts of up to this many entries.
const SCANNED: usize = 16;

impl Dict {
    /// An empty dict.
    pub fn new() -> Dict {
        Dict::default()
    }

    /// Sets the value of a key. A known key keeps its place; a new one goes to the end.
    pub fn insert(&mut self, key: impl Into<Value>, value: impl Into<Value>) {
        let key = key.into();
        match self.position(&key) {
            Some(at) => self.entries[at].1 = value.into(),
            None => {
                self.entries.push((key, value.into()));
                if self.entries.len() == SCANNED + 1 {
                    self.index =
                        self.entries.iter().enumerate().map(|(at, (key, _))| (hash(key), at)).collect();
                } else if self.entries.len() > SCANNED {
                    let at = self.entries.len() - 1;
                    self.index.insert((hash(&self.entries[at].0), at));
                }
            }
        }
    }

    pub(crate) fn reserve(&mut self, more: usize) {
        self.entries.reserve_exact(more);
    }

    /// The value of a string key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        if self.entries.len() <= SCANNED {
            return self
                .entries
                .iter()
                .find(|(other, _)| other.as_str() == Some(key))
                .map(|(_, value)| value);
        }
        self.get_key(&Value::Str(key.to_owned()))
    }

    /// The value of a key of any kind.
    pub fn get_key(&self, key: &Value) -> Option<&Value> {
        self.position(key).map(|at| &self.entries[at].1)
    }

    /// The entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Value, &Value)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the dict has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, key: &Value) -> Option<usize> {
        if self.entries.len() <= SCANNED {
            return self.entries.iter().position(|(other, _)| same_key(other, key));
        }
        let hash = hash(key);
        let same_hash = self.index.range((hash, 0)..=(hash, usize::MAX));
        same_hash.map(|&(_, at)| at).find(|&at| same_key(&self.entries[at].0, key))
    }
}

impl PartialEq for Dict {
    fn eq(&self, other: &Dict) -> bool {
        self.entries == other.entries
    }
}

/// Whether two keys are equal in Python, as `1`, `1.0` and `True` are.
fn same_key(one: &Value, other: &Value) -> bool {
    match (number(one), number(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => match (one, other) {
            (Value::Tuple(one), Value::Tuple(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_key(one, other))
            }
            _ => one == other,
        },
        _ => false,
    }
}

/// The whole number that a key equals, if any.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(value) => Some(i64::from(*value)),
        Value::Int(value) => Some(*value),
        // The cast saturates, so the way back shows whether it held.
        Value::Float(value) if *value == *value as i64 as f64 && value.abs() < 9.2e18 => Some(*value as i64),
        _ => None,
    }
}

/// Equal keys have equal hashes; the hasher's keys are constants, and no order depends on it.
fn hash(value: &Value) -> u64 {
    fn feed(value: &Value, hasher: &mut DefaultHasher) {
        if let Some(number) = number(value) {
            return number.hash(hasher);
        }
        match value {
            Value::Str(text) => text.hash(hasher),
            Value::Float(value) => value.to_bits().hash(hasher),
            Value::BigInt(bytes) | Value::Bytes(bytes) => bytes.hash(hasher),
            Value::Global(name) => name.hash(hasher),
            Value::Tuple(items) => items.iter().for_each(|item| feed(item, hasher)),
            _ => {}
        }
    }
    let mut hasher = DefaultHasher::new();
    feed(value, &mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_list_of_pairs(keys in proptest::collection::vec(0_i64..60, 0..120)) {
            let mut dict = Dict::new();
            let mut model: Vec<(i64, i64)> = Vec::new();
            for (at, &key) in keys.iter().enumerate() {
                dict.insert(key, at as i64);
                match model.iter_mut().find(|(other, _)| *other == key) {
                    Some(entry) => entry.1 = at as i64,
                    None => model.push((key, at as i64)),
                }
            }
            let found: Vec<_> = dict.iter().map(|(key, value)| (key.as_int().unwrap(), value.as_int().unwrap())).collect();
            prop_assert_eq!(&found, &model);
            for key in 0..60 {
                let expected = model.iter().find(|(other, _)| *other == key).map(|(_, value)| Value::Int(*value));
                prop_assert_eq!(dict.get_key(&Value::Int(key)), expected.as_ref());
            }
        }
    }

    #[test]
    fn keys_that_python_takes_for_one_are_one() {
        for many in [0_i64, 100] {
            let mut dict = Dict::new();
            (0..many).for_each(|number| dict.insert(1000 + number, number));
            dict.insert(1_i64, "int");
            dict.insert(true, "bool");
            dict.insert(1.0, "float");
            dict.insert(Value::Tuple(vec![Value::Bool(false)]), "tuple");
            dict.insert(Value::Tuple(vec![Value::Float(-0.0)]), "the same tuple");
            assert_eq!(dict.len() as i64, many + 2);
            let (key, value) = dict.iter().nth(many as usize).expect("an entry");
            assert_eq!((key, value), (&Value::Int(1), &Value::from("float")));
            assert_eq!(dict.get_key(&Value::Float(1.5)), None);
            dict.insert(f64::INFINITY, "infinite");
            assert_eq!(dict.get_key(&Value::Int(i64::MAX)), None);
        }
    }

    #[test]
    fn string_keys_are_found_among_few_and_many() {
        let mut dict = Dict::new();
        for number in 0..100_i64 {
            dict.insert(format!("key{number}"), number);
            assert_eq!(dict.get("key0"), Some(&Value::Int(0)));
            assert_eq!(dict.get("none"), None);
        }
        assert_eq!(dict.get("key99"), Some(&Value::Int(99)));
    }
}
