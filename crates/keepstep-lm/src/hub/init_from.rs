//! Initial weights of a run (`init_from`): a folder in the layout of the Hugging Face hub, or a checkpoint of keepstep.

use crate::config::Config;
use crate::hub::HubError;
use crate::hub::gpt2_config::Gpt2Config;
use crate::hub::names;
use crate::hub::weight_files::{self, Opened};
use keepstep_model::layout::Layout;
use keepstep_pt::{File, Value};
use keepstep_text::tokenizer::{TOKENIZER_FILE, Tokenizer};
use std::path::{Path, PathBuf};

/// The initial weights of a run.
#[derive(Debug)]
pub struct InitialWeights {
    path: PathBuf,
    files: Vec<PathBuf>,
}

impl InitialWeights {
    /// Finds the weight files of a folder (safetensors before PyTorch's format, whole or in shards), or takes a
    /// checkpoint.
    ///
    /// # Errors
    /// Fails if the folder has no weights.
    pub fn find(path: &Path) -> Result<InitialWeights, HubError> {
        let files = if path.is_dir() { weight_files::find(path)? } else { vec![path.to_path_buf()] };
        Ok(InitialWeights { path: path.to_path_buf(), files })
    }

    /// Returns the folder or the checkpoint.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hashes the files. The weights affect the run's result, so checkpoints store this hash.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    pub fn fingerprint(&self) -> Result<String, HubError> {
        weight_files::fingerprint(&self.files)
    }

    /// Fills a buffer of the layout. A position embedding that is too long is cut.
    ///
    /// # Errors
    /// Fails if tensors are missing or unknown, or if a shape differs.
    pub fn load(&self, layout: &Layout, parameters: &mut [f32]) -> Result<(), HubError> {
        let opened = Opened::open(&self.files)?;
        names::load(&opened.tensors()?, layout, parameters, true).map(|_| ())
    }

    /// Returns messages for the user about a new run with these weights.
    ///
    /// # Errors
    /// Fails if the config has another number of heads than the model of the weights. No shape shows that number, and
    /// the result would be a different model.
    pub fn notes(&self, config: &Config, tokenizer: &Tokenizer) -> Result<Vec<String>, HubError> {
        let mut notes = Vec::new();
        let (n_head, epsilon) = if self.path.is_dir() {
            let theirs = read_config_json(&self.path)?;
            if !theirs.unknown.is_empty() {
                notes.push(format!(
                    "config.json of `init_from` has keys that keepstep does not know and does not compute: {}",
                    theirs.unknown.join(", ")
                ));
            }
            let dropout = config.model.dropout;
            if theirs.dropout.iter().any(|(_, rate)| *rate != dropout) {
                let rates: Vec<String> =
                    theirs.dropout.iter().map(|(key, rate)| format!("{key} = {rate}")).collect();
                notes.push(format!(
                    "config.json of `init_from` has {}; this run trains with model.dropout = {dropout}",
                    rates.join(", ")
                ));
            }
            if let (Some(theirs), Some(ours)) = (theirs.end_of_text, tokenizer.end_of_text())
                && theirs != u64::from(ours)
            {
                notes.push(format!(
                    "config.json of `init_from` ends texts with token {theirs}, and the tokenizer with token {ours}: the \
                     tokenizer's is used"
                ));
            }
            (theirs.n_head, theirs.layer_norm_epsilon)
        } else {
            let model = model_of_checkpoint(&self.path)?;
            let int = |key: &str| model.get(key).and_then(Value::as_int);
            let n_head = int("n_head").and_then(|count| usize::try_from(count).ok());
            let epsilon = model.get("layer_norm_epsilon").and_then(Value::as_float);
            (n_head.unwrap_or(config.model.n_head), epsilon.unwrap_or(config.model.layer_norm_epsilon))
        };
        if n_head != config.model.n_head {
            return Err(self.content(format!(
                "its weights were made with n_head = {n_head}, and model.n_head is {} in the config",
                config.model.n_head
            )));
        }
        if epsilon != config.model.layer_norm_epsilon {
            notes.push(format!(
                "The weights of `init_from` were made with layer_norm_epsilon = {epsilon:e}; this run computes with {:e}",
                config.model.layer_norm_epsilon
            ));
        }
        Ok(notes)
    }

    fn content(&self, message: String) -> HubError {
        HubError::Content { path: self.path.clone(), message }
    }
}

/// Returns the config keys that `init_from` provides if the config does not set them: sizes of the model, and the
/// tokenizer.
///
/// # Errors
/// Fails if the `config.json` describes another model, or if the file is not a checkpoint.
pub fn settings_from_hub(path: &Path) -> Result<toml::Table, HubError> {
    if !path.exists() {
        let message = "`init_from` names a folder or file that does not exist".to_owned();
        return Err(HubError::Content { path: path.to_path_buf(), message });
    }
    let (mut model, mut data) = (toml::Table::new(), toml::Table::new());
    if path.is_dir() {
        let config = read_config_json(path)?;
        let sizes = [
            ("block_size", config.block_size),
            ("n_layer", config.n_layer),
            ("n_head", config.n_head),
            ("n_embd", config.n_embd),
        ];
        for (key, size) in sizes {
            model.insert(key.to_owned(), i64::try_from(size).unwrap_or(i64::MAX).into());
        }
        model.insert("layer_norm_epsilon".to_owned(), config.layer_norm_epsilon.into());
        if let Some(file) = tokenizer_of(path)? {
            data.insert("tokenizer".to_owned(), file.display().to_string().into());
            // Rows of the embedding beyond the tokenizer's entries are padding. A config that sets another tokenizer
            // must also set the number of rows.
            let rows = i64::try_from(config.vocab_size).unwrap_or(i64::MAX);
            model.insert("vocab_size".to_owned(), rows.into());
        }
    } else {
        weight_files::refuse_lfs_pointer(path)?;
        let sizes = model_of_checkpoint(path)?;
        for key in ["block_size", "n_layer", "n_head", "n_embd", "layer_norm_epsilon", "vocab_size"] {
            match sizes.get(key) {
                Some(Value::Int(value)) => model.insert(key.to_owned(), (*value).into()),
                Some(Value::Float(value)) => model.insert(key.to_owned(), (*value).into()),
                _ if key == "vocab_size" => None,
                _ => {
                    let message = format!("its `config.model` does not have `{key}`");
                    return Err(HubError::Content { path: path.to_path_buf(), message });
                }
            };
        }
        data.insert("tokenizer".to_owned(), path.display().to_string().into());
    }
    let mut table = toml::Table::new();
    table.insert("model".to_owned(), model.into());
    if !data.is_empty() {
        table.insert("data".to_owned(), data.into());
    }
    Ok(table)
}

/// Finds the tokenizer of a folder: `tokenizer.json`, or `vocab.json` with `merges.txt` next to it.
fn tokenizer_of(folder: &Path) -> Result<Option<PathBuf>, HubError> {
    let whole = folder.join(TOKENIZER_FILE);
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let found = match () {
        () if whole.exists() => vec![whole],
        () if vocab.exists() && merges.exists() => vec![vocab, merges],
        () => return Ok(None),
    };
    found.iter().try_for_each(|file| weight_files::refuse_lfs_pointer(file))?;
    Ok(found.into_iter().next())
}

fn read_config_json(folder: &Path) -> Result<Gpt2Config, HubError> {
    let path = folder.join("config.json");
    let content = |message: String| HubError::Content { path: path.clone(), message };
    let json: serde_json::Value = serde_json::from_str(&weight_files::read_text(&path)?)
        .map_err(|error| content(format!("it is not JSON: {error}")))?;
    let json = json.as_object().ok_or_else(|| content("it is not a JSON object".to_owned()))?;
    Gpt2Config::read(json).map_err(content)
}

fn model_of_checkpoint(path: &Path) -> Result<keepstep_pt::Dict, HubError> {
    let file = File::open(path)?;
    let config = file.value().as_dict().and_then(|root| root.get("config")?.as_dict());
    let model = config.and_then(|config| config.get("model")?.as_dict());
    model.cloned().ok_or_else(|| HubError::Content {
        path: path.to_path_buf(),
        message: "it is no checkpoint of keepstep: its `config` has no `model`. Weights of other programs are read from \
                  a folder with config.json"
            .to_owned(),
    })
}
