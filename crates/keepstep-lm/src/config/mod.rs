//! The config: read, changed by `--set`, checked once before anything starts.

mod error;
mod init_from;
mod precision;
mod remote;
mod stored;
mod tree;
mod validate;

pub use error::ConfigError;
pub use init_from::InitFrom;
pub use keepstep::settings::{Key, Mark, TimeSpan, expand};
pub use keepstep_model::gpt2::settings::Gpt2Settings;
pub use keepstep_model::train::adamw::OptimizerConfig;
pub use keepstep_model::train::schedule::{ScheduleConfig, ScheduleKind};
pub use keepstep_numerics::precision::Precision;
pub use keepstep_text::corpus::{DataConfig, TokenizerSpec};
pub use precision::Precisions;
pub use remote::{OnRemoteError, RemoteConfig};
pub use stored::StoredConfig;
pub use tree::{Config, OnDivergence, OnSaveError, SampleConfig};

use std::path::{Path, PathBuf};

/// A key and the new value for it, both as typed.
pub type Override = (String, String);

impl Config {
    /// Reads a file, applies the overrides, checks everything that can be checked without the corpus.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
        Config::parse(path, &text, overrides)
    }

    fn parse(path: &Path, text: &str, overrides: &[Override]) -> Result<Config, ConfigError> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| {
            let message = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            ConfigError::Syntax { path: path.to_path_buf(), message }
        })?;
        remote::expand_short_form(&mut table);
        for (key, value) in overrides {
            set(&mut table, remote::long_key(key, value), value)?;
        }
        refuse_unknown("", &table, Config::KEYS)?;
        let left_open = init_from::left_open(&table);
        if let Some(toml::Value::String(path)) = table.get("init_from") {
            let path = PathBuf::from(expand(path)?);
            // Errors in the weights matter to a new run only, which looks again. A run that continues has everything in
            // its checkpoint.
            if let Ok(given) = crate::hub::settings_from_hub(&path) {
                fill(&mut table, given);
            }
        }
        let mut config = Config::from_table(table)?;
        if let Some(init_from) = &mut config.init_from {
            init_from.left_open = left_open;
        }
        Ok(config)
    }

    /// Makes a config from a TOML table and checks it.
    ///
    /// # Errors
    /// An unknown key, a wrong type, or a value out of range.
    pub fn from_table(mut table: toml::Table) -> Result<Config, ConfigError> {
        remote::expand_short_form(&mut table);
        refuse_unknown("", &table, Config::KEYS)?;
        check_types("", &table, Config::KEYS)?;
        let config: Config = toml::Value::Table(table).try_into().map_err(|error: toml::de::Error| {
            ConfigError::Type { key: "config".to_owned(), message: message(&error) }
        })?;
        validate::validate(&config)?;
        Ok(config)
    }

    /// The model of this config, for a tokenizer of `num_tokens` entries.
    ///
    /// # Errors
    /// `model.vocab_size` is smaller than that.
    pub fn model_config(
        &self,
        num_tokens: usize,
    ) -> Result<keepstep_model::gpt2::settings::Gpt2Config, ConfigError> {
        match self.model.vocab_size {
            Some(rows) if rows < num_tokens => Err(ConfigError::Range {
                key: "model.vocab_size",
                value: rows.to_string(),
                expected: format!("at least {num_tokens}, the number of the tokenizer's entries"),
            }),
            _ => Ok(self.model.with_tokens(num_tokens)),
        }
    }

    /// Removes `model.vocab_size` where it equals `num_tokens`, the size of the tokenizer. Checkpoints store it only where
    /// rows are padding.
    #[must_use]
    pub(crate) fn without_default_rows(&self, num_tokens: usize) -> Config {
        let mut config = self.clone();
        config.model.vocab_size = config.model.vocab_size.filter(|&rows| rows != num_tokens);
        config
    }

    /// The sequences that training cuts the corpus into.
    pub fn sequences(&self) -> keepstep_text::corpus::Sequences {
        keepstep_text::corpus::Sequences { block_size: self.model.block_size, batch_size: self.batch_size }
    }

    /// The value of a key as it would stand in a config file; None if it is not set.
    pub fn value_of(&self, key: &str) -> Option<String> {
        let table = self.to_table();
        let mut parts = key.split('.');
        let first = table.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part)).map(ToString::to_string)
    }

    /// The config as a table, defaults included.
    pub fn to_table(&self) -> toml::Table {
        match toml::Value::try_from(self) {
            Ok(toml::Value::Table(table)) => table,
            _ => toml::Table::new(),
        }
    }
}

/// Sets a dotted key. A value that is not valid TOML is taken as a string.
///
/// # Errors
/// A part of the key before the last is not a table.
pub fn set(table: &mut toml::Table, key: &str, value: &str) -> Result<(), ConfigError> {
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut table = table;
    let (parents, last) = key.rsplit_once('.').map_or(("", key), |(parents, last)| (parents, last));
    let mut end = 0;
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        end += part.len() + usize::from(end > 0);
        let entry = table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = entry.as_table_mut().ok_or_else(|| ConfigError::UnknownKey {
            key: key.to_owned(),
            nearest: Some(parents[..end].to_owned()),
        })?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

/// Adds the keys that the table does not have yet.
fn fill(table: &mut toml::Table, given: toml::Table) {
    for (key, value) in given {
        match (table.get_mut(&key), value) {
            (None, value) => {
                table.insert(key, value);
            }
            (Some(toml::Value::Table(table)), toml::Value::Table(given)) => fill(table, given),
            _ => {}
        }
    }
}

/// Every key of the tree, dotted.
pub fn keys() -> Vec<(String, Mark)> {
    fn walk(prefix: &str, keys: &[Key], out: &mut Vec<(String, Mark)>) {
        for key in keys {
            let name = dotted(prefix, key.name);
            match key.mark {
                Mark::Section(inner) => walk(&name, inner, out),
                mark => out.push((name, mark)),
            }
        }
    }
    let mut out = Vec::new();
    walk("", Config::KEYS, &mut out);
    out
}

fn dotted(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn refuse_unknown(prefix: &str, table: &toml::Table, keys: &[Key]) -> Result<(), ConfigError> {
    for (name, value) in table {
        let full = dotted(prefix, name);
        match (keys.iter().find(|key| key.name == name).map(|key| key.mark), value) {
            (Some(Mark::Section(inner)), toml::Value::Table(table)) => refuse_unknown(&full, table, inner)?,
            (Some(Mark::Section(_)), _) => {
                return Err(ConfigError::Type {
                    key: full.clone(),
                    message: format!("expected a table: [{full}]"),
                });
            }
            (Some(_), _) => {}
            (None, _) => return Err(ConfigError::UnknownKey { nearest: nearest(&full), key: full }),
        }
    }
    Ok(())
}

/// Reads each value separately: an error then names its key.
fn check_types(prefix: &str, table: &toml::Table, keys: &[Key]) -> Result<(), ConfigError> {
    for (name, value) in table {
        let full = dotted(prefix, name);
        if let Some(Key { mark: Mark::Section(inner), .. }) = keys.iter().find(|key| key.name == name) {
            if let toml::Value::Table(table) = value {
                check_types(&full, table, inner)?;
            }
            continue;
        }
        let mut alone = toml::Table::new();
        let mut leaf = &mut alone;
        for part in full.split('.').take(full.matches('.').count()) {
            leaf = match leaf.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new())) {
                toml::Value::Table(table) => table,
                _ => return Ok(()),
            };
        }
        leaf.insert(name.clone(), value.clone());
        toml::Value::Table(alone)
            .try_into::<Config>()
            .map_err(|error| ConfigError::Type { key: full, message: message(&error) })?;
    }
    Ok(())
}

/// The library's sentence without its excerpt of the file: a value from the command line has no file.
fn message(error: &toml::de::Error) -> String {
    error.message().trim().to_owned()
}

/// The known key with the spelling nearest to an unknown one.
fn nearest(unknown: &str) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    let distance = |key: &str| {
        let whole = edit_distance(unknown, key);
        // A key under the wrong table, or without its table.
        whole.min(edit_distance(&last(unknown), &last(key)) + usize::from(unknown.contains('.')))
    };
    let best = keys().into_iter().map(|(key, _)| (distance(&key), key)).min()?;
    (best.0 <= last(unknown).len() / 3 + 1).then_some(best.1)
}

/// The Levenshtein distance.
fn edit_distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (col, right) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[col + 1];
            row[col + 1] = replaced.min(row[col] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let overrides: Vec<Override> =
            overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Config::parse(Path::new("c.toml"), text, &overrides)
    }

    const SMALL: &str = "output_dir = \"out\"\n[data]\npaths = [\"a.txt\"]\n";

    #[test]
    fn values_defaults_and_overrides() {
        let config = parse(
            SMALL,
            &[
                ("model.n_layer", "7"),
                ("data.tokenizer", "{ bpe = 512 }"),
                ("output_dir", "/some/where"),
                ("session_time_limit", "10h"),
                ("optimizer.betas", "[0.8, 0.99]"),
            ],
        )
        .expect("a config");
        assert_eq!(config.model.n_layer, 7);
        assert_eq!(config.output_dir, "/some/where");
        assert_eq!(config.data.tokenizer, TokenizerSpec::Bpe(512));
        assert_eq!(config.optimizer.betas, [0.8, 0.99]);
        assert_eq!(config.epochs, Config::default().epochs);
        assert_eq!(config.precision, Precisions::from(Precision::Float32));
        let both = parse(SMALL, &[("precision", "[\"bf16\", \"float32\"]")]).expect("a config");
        assert_eq!(both.precision.to_string(), "[\"bf16\", \"float32\"]");
        assert_eq!(Config::from_table(both.to_table()).expect("what was written"), both);
        let again = Config::from_table(config.to_table()).expect("what was written");
        assert_eq!(again, config);
    }

    #[test]
    fn mistakes_name_the_key() {
        for (key, value, expected) in [
            ("learning_rte", "1", "`optimizer.learning_rate`"),
            ("optimizer.learning_rte", "1", "`optimizer.learning_rate`"),
            ("optimizer.lr", "1", "`optimizer.lr`"),
            ("model.layers", "1", "`model.n_layer`"),
            ("batch_size", "\"many\"", "`batch_size`"),
            ("batch_size", "-3", "`batch_size`"),
            ("schedule.kind", "\"cosin\"", "cosine"),
            ("data.tokenizer", "\"words\"", "chars"),
            ("save_every", "10", "`save_every`"),
            ("model", "3", "[model]"),
            ("seed.x", "3", "`seed"),
            ("precision", "fp16", "`precision`: expected \"float32\""),
            ("precision", "[]", "the preferred one first"),
            ("precision", "[\"bf16\", \"bf16\"]", "`precision`: expected"),
            ("precision", "16", "`precision`: expected"),
        ] {
            let error = parse(SMALL, &[(key, value)]).expect_err(key).to_string();
            assert!(error.contains(expected), "{key}: {error}");
        }
    }

    #[test]
    fn the_documentation_has_every_key_with_its_mark() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
        let page = std::fs::read_to_string(path).expect("the page");
        for (key, mark) in keys() {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
            let cells: Vec<&str> =
                row.unwrap_or_else(|| panic!("no {key}")).split('|').map(str::trim).collect();
            assert_eq!(cells[3] == "R", mark == Mark::Result, "{key}");
        }
    }

    /// The macro lists the same keys that serde writes.
    #[test]
    fn the_list_of_keys_is_that_of_the_tree() {
        let json = serde_json::to_value(Config::default()).expect("JSON");
        for (key, _) in keys() {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert!(json.pointer(&pointer).is_some(), "{key}");
        }
    }
}
