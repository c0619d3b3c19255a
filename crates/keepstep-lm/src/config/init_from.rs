//! The weights that a run begins with, and the keys that the config leaves to them.

use super::{Config, TokenizerSpec};
use keepstep_pt::{Dict, Value};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;

/// Where the first weights of a run are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitFrom {
    /// A folder or a checkpoint, as written in the config.
    pub path: String,
    /// Keys, dotted, that the config does not set: the weights give them to a new run, the checkpoint to one that goes
    /// on.
    pub(super) left_open: Vec<&'static str>,
}

/// The keys that weights give.
const GIVEN: [&str; 7] = [
    "model.block_size",
    "model.n_layer",
    "model.n_head",
    "model.n_embd",
    "model.layer_norm_epsilon",
    "model.vocab_size",
    TOKENIZER,
];

const TOKENIZER: &str = "data.tokenizer";

/// The keys of `GIVEN` that a config file does not set.
pub(super) fn left_open(table: &toml::Table) -> Vec<&'static str> {
    let is_set = |key: &str| match key.split_once('.') {
        Some((section, key)) => table.get(section).and_then(|inner| inner.get(key)).is_some(),
        None => table.contains_key(key),
    };
    GIVEN.into_iter().filter(|key| !is_set(key)).collect()
}

impl Config {
    /// The config of a run that goes on from a checkpoint with this config: the keys that are left to `init_from` are the
    /// checkpoint's, so nothing of `init_from` is needed.
    pub(crate) fn with_saved(&self, saved: Option<&Dict>) -> Cow<'_, Config> {
        let (Some(init_from), Some(saved)) = (&self.init_from, saved) else { return Cow::Borrowed(self) };
        let mut config = self.clone();
        let value = |key: &str| {
            let (section, key) = key.split_once('.')?;
            saved.get(section)?.as_dict()?.get(key)
        };
        let size = |key: &str| value(key).and_then(Value::as_int).and_then(|size| usize::try_from(size).ok());
        for key in &init_from.left_open {
            let model = &mut config.model;
            let place = match *key {
                "model.block_size" => &mut model.block_size,
                "model.n_layer" => &mut model.n_layer,
                "model.n_head" => &mut model.n_head,
                "model.n_embd" => &mut model.n_embd,
                "model.vocab_size" => {
                    model.vocab_size = size(key);
                    continue;
                }
                "model.layer_norm_epsilon" => {
                    model.layer_norm_epsilon =
                        value(key).and_then(Value::as_float).unwrap_or(model.layer_norm_epsilon);
                    continue;
                }
                // The kind alone; the tokenizer itself is the checkpoint's.
                _ => {
                    if value(key).and_then(Value::as_str) == Some("tokenizer.json") {
                        config.data.tokenizer = TokenizerSpec::File(init_from.path.clone());
                    }
                    continue;
                }
            };
            *place = size(key).unwrap_or(*place);
        }
        Cow::Owned(config)
    }

    /// Whether the tokenizer is the one that `init_from` gives.
    pub(crate) fn leaves_tokenizer_open(&self) -> bool {
        self.init_from.as_ref().is_some_and(|init_from| init_from.left_open.contains(&TOKENIZER))
    }
}

impl Serialize for InitFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.path)
    }
}

impl<'de> Deserialize<'de> for InitFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<InitFrom, D::Error> {
        Ok(InitFrom { path: String::deserialize(deserializer)?, left_open: Vec::new() })
    }
}
