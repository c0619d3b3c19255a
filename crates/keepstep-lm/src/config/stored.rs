//! The config of a checkpoint: the result keys, and what a run brought with it that no key sets.

use super::{Config, ConfigError, Key, Mark, Precision};
use keepstep::Checkpoint;
use keepstep_pt::{Dict, Value};

/// What a checkpoint's `config` holds.
///
/// The result keys are nested as in the file. `precision` is the run's own, and is left out for float32, since checkpoints
/// had no such key before there was a choice. `epochs` is among them only where the schedule's length comes from it, and
/// `total_steps` only where a schedule asks for it. Three entries come from the run and not from a key: the hash of the
/// first weights, the precision that the processor decided, and imported parameter groups.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredConfig {
    dict: Dict,
}

/// The key under which the hash of the first weights is stored. The config's key of this name holds their path, which is
/// no part of the result.
const INIT_FROM: &str = "init_from";

const PRECISION: &str = "precision";

/// The key, under `optimizer`, of parameter groups that differ from the config's own.
const PARAM_GROUPS: &str = "param_groups";

impl StoredConfig {
    /// The result keys of a config. Of several allowed precisions it takes the preferred one.
    pub fn new(config: &Config) -> StoredConfig {
        let json = serde_json::to_value(config).unwrap_or_default();
        let keys = walk(&json, Config::KEYS);
        let precision = config.precision.preferred();
        let drop: &[&str] = match (config.schedule.kind.is_constant(), config.total_steps) {
            (true, _) => &["epochs", "total_steps", INIT_FROM],
            (false, Some(_)) => &["epochs", INIT_FROM],
            (false, None) => &["total_steps", INIT_FROM],
        };
        let mut dict = Dict::new();
        for (key, value) in keys.iter() {
            match key.as_str() {
                Some(name) if drop.contains(&name) => {}
                Some(PRECISION) if precision == Precision::Float32 => {}
                Some(PRECISION) => dict.insert(PRECISION, precision.to_string()),
                // Checkpoints had no such key before embeddings could have padding rows.
                Some("model") if config.model.vocab_size.is_none() => {
                    dict.insert(
                        "model",
                        value.as_dict().map_or_else(Dict::new, |model| without(model, "vocab_size")),
                    );
                }
                _ => dict.insert(key.clone(), value.clone()),
            }
        }
        StoredConfig { dict }
    }

    /// What a checkpoint holds.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> StoredConfig {
        StoredConfig { dict: checkpoint.identity.config.clone() }
    }

    /// The dict that goes into a checkpoint.
    pub fn into_dict(self) -> Dict {
        self.dict
    }

    /// A config with these result keys and the defaults of all others.
    ///
    /// # Errors
    /// A key that this version does not know, or a value of another type.
    pub fn to_config(&self, output_dir: &str) -> Result<Config, ConfigError> {
        let mut table = to_table(&self.dict);
        table.remove(INIT_FROM);
        if let Some(optimizer) = table.get_mut("optimizer").and_then(toml::Value::as_table_mut) {
            optimizer.remove(PARAM_GROUPS);
        }
        table.insert("output_dir".to_owned(), output_dir.into());
        if let Some(data) =
            table.entry("data").or_insert_with(|| toml::Value::Table(toml::Table::new())).as_table_mut()
        {
            data.insert("paths".to_owned(), toml::Value::Array(vec!["*".into()]));
        }
        Config::from_table(table)
    }

    /// The precision of matmuls.
    pub fn precision(&self) -> Precision {
        match self.dict.get(PRECISION).and_then(Value::as_str) {
            Some("bf16") => Precision::Bf16,
            _ => Precision::Float32,
        }
    }

    /// The hash of the weights that the run began with, if it did not draw them.
    pub fn init_from(&self) -> Option<&str> {
        self.dict.get(INIT_FROM)?.as_str()
    }

    /// Stores the hash of the weights that the run begins with.
    pub fn set_init_from(&mut self, hash: &str) {
        self.dict.insert(INIT_FROM, hash);
    }

    /// The parameter groups, where they differ from the config's own.
    pub(crate) fn param_groups(&self) -> Option<&Value> {
        self.dict.get("optimizer")?.as_dict()?.get(PARAM_GROUPS)
    }

    pub(crate) fn set_param_groups(&mut self, groups: Value) {
        let mut optimizer = self.dict.get("optimizer").and_then(Value::as_dict).cloned().unwrap_or_default();
        optimizer.insert(PARAM_GROUPS, groups);
        self.dict.insert("optimizer", optimizer);
    }

    /// `data.tokenizer`, as it is stored.
    pub(crate) fn tokenizer(&self) -> Option<&Value> {
        self.dict.get("data")?.as_dict()?.get("tokenizer")
    }
}

fn without(dict: &Dict, key: &str) -> Dict {
    let mut kept = Dict::new();
    for (name, value) in dict.iter().filter(|(name, _)| name.as_str() != Some(key)) {
        kept.insert(name.clone(), value.clone());
    }
    kept
}

fn walk(json: &serde_json::Value, keys: &[Key]) -> Dict {
    let mut dict = Dict::new();
    for key in keys {
        let Some(value) = json.get(key.name) else { continue };
        match key.mark {
            Mark::Runtime => {}
            Mark::Result => dict.insert(key.name, to_value(value)),
            Mark::Section(inner) => {
                let inner = walk(value, inner);
                if !inner.is_empty() {
                    dict.insert(key.name, inner);
                }
            }
        }
    }
    dict
}

fn to_value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(value) => Value::Int(value),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::Str(text.clone()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(to_value).collect()),
        serde_json::Value::Object(map) => {
            let mut dict = Dict::new();
            for (key, value) in map {
                dict.insert(key.as_str(), to_value(value));
            }
            Value::Dict(dict)
        }
    }
}

fn to_table(dict: &Dict) -> toml::Table {
    let mut table = toml::Table::new();
    for (key, value) in dict.iter() {
        if let (Some(key), Some(value)) = (key.as_str(), to_toml(value)) {
            table.insert(key.to_owned(), value);
        }
    }
    table
}

fn to_toml(value: &Value) -> Option<toml::Value> {
    Some(match value {
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Str(text) => text.as_str().into(),
        Value::List(items) => toml::Value::Array(items.iter().filter_map(to_toml).collect()),
        Value::Dict(dict) => toml::Value::Table(to_table(dict)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ScheduleKind, TokenizerSpec};

    fn config() -> Config {
        let mut config = Config { output_dir: "out".to_owned(), ..Config::default() };
        config.data.paths = vec!["a".to_owned()];
        config.schedule.kind = ScheduleKind::Cosine;
        config.data.tokenizer = TokenizerSpec::Bpe(300);
        config
    }

    #[test]
    fn exactly_the_result_keys_are_stored_and_come_back() {
        let stored = StoredConfig::new(&config());
        for key in ["output_dir", "save_steps", "num_threads", "total_steps", "sample"] {
            assert!(stored.dict.get(key).is_none(), "{key}");
        }
        assert_eq!(stored.dict.get("epochs"), Some(&Value::Int(1)));
        let again = stored.to_config("elsewhere").expect("a config");
        assert_eq!(StoredConfig::new(&again), stored);
        assert_eq!(again.data.tokenizer, TokenizerSpec::Bpe(300));
    }

    #[test]
    fn what_a_run_brought_is_no_key_of_the_config() {
        let plain = StoredConfig::new(&config());
        let mut stored = plain.clone();
        stored.set_init_from("a hash");
        stored.set_param_groups(Value::List(Vec::new()));
        assert_eq!(
            (stored.init_from(), stored.param_groups()),
            (Some("a hash"), Some(&Value::List(Vec::new())))
        );
        assert_eq!(StoredConfig::new(&stored.to_config("elsewhere").expect("a config")), plain);
    }

    #[test]
    fn epochs_may_grow_where_nothing_depends_on_them() {
        let stored = |config: &Config| StoredConfig::new(config).into_dict();
        let mut config = config();
        config.total_steps = Some(100);
        assert!(stored(&config).get("epochs").is_none());
        assert!(stored(&config).get("total_steps").is_some());
        config.schedule.kind = ScheduleKind::ConstantWithWarmup;
        assert!(stored(&config).get("epochs").is_none());
    }
}
