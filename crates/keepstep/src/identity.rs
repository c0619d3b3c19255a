//! What a run is a function of, and how two runs differ.

use crate::display::scalar;
use keepstep_pt::{Dict, Value};
use sha2::{Digest, Sha256};

/// Everything that a run's result depends on. Two runs with the same identity end in the same bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The seed of order and randomness.
    pub seed: u64,
    /// The version of the arithmetic; raise it with every change of bits.
    pub numerics: u64,
    /// Exactly the settings that change the result; may be nested.
    pub config: Dict,
    /// A hash of the samples and their order before shuffling; empty if the loop has none.
    pub corpus_fingerprint: String,
    /// The tokenizer, as JSON; empty if the loop has none.
    pub tokenizer: String,
}

impl Identity {
    /// An identity that consists of a seed alone.
    pub fn new(seed: u64) -> Identity {
        Identity {
            seed,
            numerics: 1,
            config: Dict::new(),
            corpus_fingerprint: String::new(),
            tokenizer: String::new(),
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Identity {
        self.config.insert(key, value);
        self
    }

    /// Sixteen digits that tell one function from another: the journal marks its sessions with them. No checkpoint has
    /// them.
    pub fn digest(&self) -> String {
        let mut settings = Vec::new();
        flatten("", &self.config, &mut settings);
        settings.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        for (key, value) in &settings {
            add(key);
            add(&scalar(value));
        }
        add(&self.seed.to_string());
        add(&self.numerics.to_string());
        add(&self.corpus_fingerprint);
        add(&self.tokenizer);
        hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A setting that differs between a checkpoint and a config.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    let (mut left, mut right) = (Vec::new(), Vec::new());
    flatten("", saved, &mut left);
    flatten("", configured, &mut right);
    let find = |list: &[(String, Value)], key: &str| {
        list.iter().find(|(other, _)| other == key).map(|(_, value)| value.clone())
    };
    let mut found = Vec::new();
    for (key, value) in &left {
        let other = find(&right, key);
        if !other.as_ref().is_some_and(|other| same(value, other)) {
            let (saved, configured) = (Some(scalar(value)), other.as_ref().map(scalar));
            found.push(Difference { key: key.clone(), saved, configured });
        }
    }
    for (key, value) in &right {
        if find(&left, key).is_none() {
            found.push(Difference { key: key.clone(), saved: None, configured: Some(scalar(value)) });
        }
    }
    found
}

/// By bits: a float that differs in its last place is another setting.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Float(left), Value::Float(right)) => left.to_bits() == right.to_bits(),
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        _ => left == right,
    }
}

fn flatten(prefix: &str, dict: &Dict, out: &mut Vec<(String, Value)>) {
    for (key, value) in dict.iter() {
        let name = key.as_str().map_or_else(|| scalar(key), str::to_owned);
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value.as_dict() {
            Some(inner) => flatten(&name, inner, out),
            None => out.push((name, value.clone())),
        }
    }
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
}
