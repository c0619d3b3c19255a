//! The part of the config that the result is a function of, as a checkpoint stores it, and back.

use super::{Config, ConfigError, Key, Mark, Precision};
use keepstep_pt::{Dict, Value};

/// The functional keys, nested as in the file. Of several allowed precisions it is the preferred one; float32 is not
/// written down, since checkpoints had no such key before there was a choice. `epochs` is among them only where the schedule's length comes from it,
/// and `total_steps` only where a schedule asks for it.
pub fn functional(config: &Config) -> Dict {
    let json = serde_json::to_value(config).unwrap_or_default();
    let mut dict = walk(&json, Config::KEYS);
    let precision = config.precision.preferred();
    dict.insert(PRECISION, precision.to_string());
    let is_written = precision != Precision::Float32;
    let drop: &[&str] = match (config.schedule.kind.is_constant(), config.total_steps) {
        (true, _) => &["epochs", "total_steps", PLACE],
        (false, Some(_)) => &["epochs", PLACE],
        (false, None) => &["total_steps", PLACE],
    };
    if config.model.vocab_size.is_none()
        && let Some(model) = dict.get(MODEL).and_then(Value::as_dict)
    {
        let model = without(model, VOCAB_SIZE);
        dict.insert(MODEL, model);
    }
    let is_kept = |key: &str| !drop.contains(&key) && (is_written || key != PRECISION);
    dict = dict.iter().filter(|(key, _)| key.as_str().is_none_or(is_kept)).fold(
        Dict::new(),
        |mut dict, (key, value)| {
            dict.insert(key.clone(), value.clone());
            dict
        },
    );
    dict
}

/// Where the first weights lie is no part of the function; what they are is, and whoever reads them adds it.
const PLACE: &str = "init_from";

const PRECISION: &str = "precision";

/// Checkpoints had no such key before embeddings could have padding rows.
const VOCAB_SIZE: &str = "vocab_size";

const MODEL: &str = "model";

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
            Mark::Operational => {}
            Mark::Functional => dict.insert(key.name, to_value(value)),
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
            None if number.is_u64() => Value::from(number.as_u64().unwrap_or_default()),
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

/// A config that has a checkpoint's functional keys and the defaults of all others.
///
/// # Errors
/// A key that this version does not know, or a value that is none of it.
pub fn from_functional(dict: &Dict, output_dir: &str) -> Result<Config, ConfigError> {
    let mut table = to_table(dict);
    // What checkpoints keep beside the keys of a config.
    table.remove("init_from");
    if let Some(optimizer) = table.get_mut("optimizer").and_then(toml::Value::as_table_mut) {
        optimizer.remove("param_groups");
    }
    table.insert("output_dir".to_owned(), output_dir.into());
    if let Some(data) =
        table.entry("data").or_insert_with(|| toml::Value::Table(toml::Table::new())).as_table_mut()
    {
        data.insert("paths".to_owned(), toml::Value::Array(vec!["*".into()]));
    }
    Config::from_table(table)
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
    fn exactly_the_functional_keys_are_stored_and_come_back() {
        let config = config();
        let dict = functional(&config);
        for key in ["output_dir", "save_steps", "num_threads", "total_steps", "sample"] {
            assert!(dict.get(key).is_none(), "{key}");
        }
        assert_eq!(dict.get("epochs"), Some(&Value::Int(1)));
        let again = from_functional(&dict, "elsewhere").expect("a config");
        assert_eq!(functional(&again), dict);
        assert_eq!(again.data.tokenizer, TokenizerSpec::Bpe(300));
    }

    #[test]
    fn epochs_may_grow_where_nothing_depends_on_them() {
        let mut config = config();
        config.total_steps = Some(100);
        assert!(functional(&config).get("epochs").is_none());
        assert!(functional(&config).get("total_steps").is_some());
        config.schedule.kind = ScheduleKind::ConstantWithWarmup;
        assert!(functional(&config).get("epochs").is_none());
    }
}
