//! What a run is a function of, and how two runs differ.

use crate::display::scalar;
use keepstep_pt::{Dict, NotStorable, Value};
use sha2::{Digest, Sha256};

/// The input that stands for the samples and their order before shuffling.
pub const CORPUS_FINGERPRINT: &str = "corpus_fingerprint";
/// The input that holds the tokenizer, as JSON.
pub const TOKENIZER: &str = "tokenizer";

/// Everything that a run's result depends on. Two runs with the same identity end in the same bytes.
///
/// ```
/// use keepstep::identity::Identity;
///
/// let identity = Identity::new(u64::MAX).with("learning_rate", 0.1).with_input("train_set", "sha256:9f86d0…");
/// assert_eq!(identity.input("train_set"), Some("sha256:9f86d0…"));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Identity {
    /// The seed of order and randomness.
    pub seed: u64,
    /// The version of the arithmetic; raise it with every change of bits.
    pub numerics: u64,
    /// Exactly the settings that change the result; may be nested.
    pub config: Dict,
    /// What the run reads: names with digests or whole values, in order.
    inputs: Vec<(String, String)>,
}

impl Identity {
    /// An identity that consists of a seed alone.
    pub fn new(seed: u64) -> Identity {
        Identity { seed, numerics: 1, config: Dict::new(), inputs: Vec::new() }
    }

    /// Adds a setting.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Identity {
        self.config.insert(key, value);
        self
    }

    /// Sets all settings.
    #[must_use]
    pub fn with_config(self, config: Dict) -> Identity {
        Identity { config, ..self }
    }

    /// Sets the version of the arithmetic.
    #[must_use]
    pub fn with_numerics(self, numerics: u64) -> Identity {
        Identity { numerics, ..self }
    }

    /// Adds an input, such as a data set: its digest, or its whole value where that is short. An input that is there
    /// already gets the new value; an empty value stands for no input.
    #[must_use]
    pub fn with_input(mut self, name: impl Into<String>, value: impl Into<String>) -> Identity {
        let (name, value) = (name.into(), value.into());
        match self.inputs.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => self.inputs.push((name, value)),
        }
        self.inputs.retain(|(_, value)| !value.is_empty());
        self
    }

    /// The value of an input.
    pub fn input(&self, name: &str) -> Option<&str> {
        self.inputs.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The inputs in order: names and values.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.inputs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether a checkpoint of format version 1 can hold the inputs.
    pub(crate) fn has_version_1_inputs(&self) -> bool {
        self.inputs.iter().all(|(name, _)| [CORPUS_FINGERPRINT, TOKENIZER].contains(&name.as_str()))
    }

    /// The same with the order of settings and inputs of `other`, which is equal but for that.
    pub(crate) fn in_order_of(&self, other: &Identity) -> Identity {
        Identity { numerics: self.numerics, ..other.clone() }
    }

    /// Checks that a checkpoint can hold the config.
    ///
    /// # Errors
    /// A value that would not come back as it is, by its key.
    pub fn check_storable(&self) -> Result<(), NotStorable> {
        Value::Dict(self.config.clone()).check_storable()
    }

    /// Sixteen digits that distinguish one function from another: the journal marks its sessions with them. No
    /// checkpoint contains them.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        let mut settings: Vec<_> = settings(&self.config).map(|(key, value)| (key, scalar(value))).collect();
        settings.sort();
        for (key, value) in &settings {
            add(key);
            add(value);
        }
        add(&self.seed.to_string());
        add(&self.numerics.to_string());
        add(self.input(CORPUS_FINGERPRINT).unwrap_or_default());
        add(self.input(TOKENIZER).unwrap_or_default());
        let mut others: Vec<_> =
            self.inputs().filter(|(name, _)| ![CORPUS_FINGERPRINT, TOKENIZER].contains(name)).collect();
        others.sort();
        for (name, value) in others {
            add(name);
            add(value);
        }
        crate::hex(&hash.finalize()[..8])
    }

    /// The first input that differs between two identities.
    pub fn input_difference(&self, other: &Identity) -> Option<Difference> {
        let names = self.inputs().chain(other.inputs()).map(|(name, _)| name);
        names.map(|name| (name, self.input(name), other.input(name))).find(|(_, one, two)| one != two).map(
            |(name, saved, configured)| Difference {
                key: name.to_owned(),
                saved: saved.map(str::to_owned),
                configured: configured.map(str::to_owned),
            },
        )
    }
}

/// By bits, whatever the order of settings and inputs.
impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        self.seed == other.seed
            && self.numerics == other.numerics
            && same_dict(&self.config, &other.config)
            && self.input_difference(other).is_none()
    }
}

/// A setting that differs between a checkpoint and a config.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The key, dotted.
    pub key: String,
    /// The value in the checkpoint, if it has the key.
    pub saved: Option<String>,
    /// The value in the config, if it has the key.
    pub configured: Option<String>,
}

/// The settings that differ, in the order of the checkpoint, then of the config.
pub fn differences(saved: &Dict, configured: &Dict) -> Vec<Difference> {
    let (saved, configured) = (leaves(saved), leaves(configured));
    let mut found = Vec::new();
    for leaf in &saved {
        let other = configured.iter().find(|other| other.same_path(leaf));
        if !other.is_some_and(|other| same(leaf.value, other.value)) {
            let (saved, configured) = (Some(scalar(leaf.value)), other.map(|other| scalar(other.value)));
            found.push(Difference { key: leaf.name(), saved, configured });
        }
    }
    for leaf in &configured {
        if !saved.iter().any(|other| other.same_path(leaf)) {
            found.push(Difference { key: leaf.name(), saved: None, configured: Some(scalar(leaf.value)) });
        }
    }
    found
}

/// Each setting of a config with its dotted key, those of nested ones included, in their order. Two settings may have
/// one dotted key: a key may contain a dot.
pub fn settings(config: &Dict) -> impl Iterator<Item = (String, &Value)> {
    leaves(config).into_iter().map(|leaf| (leaf.name(), leaf.value))
}

/// A value of a config that holds no other settings, and the keys that lead to it.
struct Leaf<'a> {
    path: Vec<&'a Value>,
    value: &'a Value,
}

impl Leaf<'_> {
    /// Dotted, for people: two paths may have one name.
    fn name(&self) -> String {
        let names = self.path.iter().map(|key| key.as_str().map_or_else(|| scalar(key), str::to_owned));
        names.collect::<Vec<_>>().join(".")
    }

    fn same_path(&self, other: &Leaf<'_>) -> bool {
        self.path.len() == other.path.len()
            && self.path.iter().zip(&other.path).all(|(key, other)| same(key, other))
    }
}

fn leaves(config: &Dict) -> Vec<Leaf<'_>> {
    fn walk<'a>(path: &mut Vec<&'a Value>, dict: &'a Dict, out: &mut Vec<Leaf<'a>>) {
        for (key, value) in dict.iter() {
            path.push(key);
            match value.as_dict() {
                Some(inner) if !inner.is_empty() => walk(path, inner, out),
                _ => out.push(Leaf { path: path.clone(), value }),
            }
            path.pop();
        }
    }
    let mut out = Vec::new();
    walk(&mut Vec::new(), config, &mut out);
    out
}

/// By bits: a float that differs in its last place is another setting.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Float(left), Value::Float(right)) => left.to_bits() == right.to_bits(),
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Dict(left), Value::Dict(right)) | (Value::OrderedDict(left), Value::OrderedDict(right)) => {
            same_dict(left, right)
        }
        _ => left == right,
    }
}

pub(crate) fn same_dict(left: &Dict, right: &Dict) -> bool {
    left.len() == right.len()
        && left.iter().all(|(key, value)| right.get_key(key).is_some_and(|other| same(value, other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_named_with_both_values() {
        let mut model = Dict::new();
        model.insert("n_layer", 4_i64);
        let mut saved = Dict::new();
        saved.insert("lr", 0.1);
        saved.insert("model", model.clone());
        saved.insert("gone", Value::None);
        let mut configured = Dict::new();
        model.insert("n_layer", 5_i64);
        configured.insert("lr", 0.1);
        configured.insert("model", model);
        configured.insert("new", true);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            differences(&saved, &configured),
            [
                Difference { key: "model.n_layer".into(), saved: text("4"), configured: text("5") },
                Difference { key: "gone".into(), saved: text("None"), configured: None },
                Difference { key: "new".into(), saved: None, configured: text("True") },
            ]
        );
        assert!(differences(&saved, &saved).is_empty());
    }

    /// `{"a": {"b": 1}, "a.b": 2}`: both print as `a.b`, and neither hides the other.
    #[test]
    fn a_key_with_a_dot_is_no_nested_key() {
        let config = |nested: i64, dotted: i64, reversed: bool| {
            let mut inner = Dict::new();
            inner.insert("b", nested);
            let mut entries = vec![("a", Value::Dict(inner)), ("a.b", Value::Int(dotted))];
            if reversed {
                entries.reverse();
            }
            entries.into_iter().fold(Identity::new(1), |identity, (key, value)| identity.with(key, value))
        };
        let one = config(1, 2, false);
        assert!(differences(&one.config, &one.config).is_empty());
        assert_eq!(one.digest(), config(1, 2, true).digest());
        let other = config(1, 3, false);
        let text = |text: &str| Some(text.to_owned());
        let expected = Difference { key: "a.b".into(), saved: text("2"), configured: text("3") };
        assert_eq!(differences(&one.config, &other.config), [expected]);
    }

    #[test]
    fn order_changes_nothing_and_every_bit_counts() {
        let nan = f64::from_bits(0x7ff8_0000_0000_0001);
        let identity = |nan: f64| Identity::new(1).with("a", nan).with("b", Value::List(vec![nan.into()]));
        assert_eq!(identity(nan), Identity::new(1).with("b", Value::List(vec![nan.into()])).with("a", nan));
        assert_ne!(identity(nan), identity(f64::from_bits(0x7ff8_0000_0000_0002)));
        let one = Identity::new(1).with_input("train", "x").with_input("test", "y");
        let other = Identity::new(1).with_input("test", "y").with_input("train", "x");
        assert_eq!(one, other);
        assert_eq!(one.digest(), other.digest());
        let changed = other.clone().with_input("test", "z");
        assert_ne!(one.digest(), changed.digest());
        let difference = one.input_difference(&changed).expect("another test set");
        assert_eq!((difference.key.as_str(), difference.configured.as_deref()), ("test", Some("z")));
    }

    /// The journals of runs that have begun hold this digest: replays are found by it.
    #[test]
    fn the_digest_is_that_of_version_1() {
        let identity = Identity::new(7)
            .with("lr", 0.1)
            .with_input(CORPUS_FINGERPRINT, "abc")
            .with_input(TOKENIZER, "{}");
        assert_eq!(identity.digest(), "f1d1894369a8abe6");
    }
}
