//! Weights to begin with (`init_from`): a folder as the Hugging Face hub lays it out, or a checkpoint of keepstep.

use crate::hub::ForeignError;
use crate::hub::names;
use crate::hub::tensors::{Named, Source, of_dict};
use keepstep_model::gpt2::layout::Layout;
use keepstep_pt::{File, Value};
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The weights that a run begins with.
#[derive(Debug)]
pub struct Initial {
    file: PathBuf,
}

impl Initial {
    /// Finds the weights: `model.safetensors` or `pytorch_model.bin` of a folder, or a checkpoint.
    ///
    /// # Errors
    /// There are none.
    pub fn find(path: &Path) -> Result<Initial, ForeignError> {
        if !path.is_dir() {
            return Ok(Initial { file: path.to_path_buf() });
        }
        let names = ["model.safetensors", "pytorch_model.bin"];
        let found = names.iter().map(|name| path.join(name)).find(|file| file.exists());
        found.map(|file| Initial { file }).ok_or_else(|| ForeignError::Content {
            path: path.to_path_buf(),
            message: "`init_from` needs a folder with model.safetensors or pytorch_model.bin (in one piece), or a .pt \
                      file"
                .to_owned(),
        })
    }

    /// A hash of the file: what the run is a function of.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn fingerprint(&self) -> Result<String, ForeignError> {
        let mut file = std::fs::File::open(&self.file).map_err(|source| self.unreadable(source))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(|source| self.unreadable(source))? {
                0 => break,
                len => hash.update(&buffer[..len]),
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Fills a buffer of the layout. A longer table of positions is cut.
    ///
    /// # Errors
    /// Tensors that are missing, too much, or of other shapes.
    pub fn load(&self, layout: &Layout, parameters: &mut [f32]) -> Result<(), ForeignError> {
        if self.file.extension().is_some_and(|extension| extension == "safetensors") {
            let file = std::fs::File::open(&self.file).map_err(|source| self.unreadable(source))?;
            // SAFETY: the mapping is only read; a file that changes meanwhile changes the numbers, no more.
            let map = unsafe { Mmap::map(&file) }.map_err(|source| self.unreadable(source))?;
            let parsed = safetensors::SafeTensors::deserialize(&map)
                .map_err(|error| self.content(error.to_string()))?;
            let tensors = parsed.iter().map(|(name, view)| Named {
                name: name.to_owned(),
                shape: view.shape().to_vec(),
                source: Source::Safetensors(view.data(), view.dtype()),
            });
            names::load(&tensors.collect::<Vec<_>>(), layout, parameters, true).map(|_| ())
        } else {
            let file = File::open(&self.file)?;
            file.verify()?;
            let root = file
                .value()
                .as_dict()
                .ok_or_else(|| self.content("it holds no dict of tensors".to_owned()))?;
            let nested = ["model_state_dict", "model"].iter().find_map(|key| root.get(key)?.as_dict());
            names::load(&of_dict(nested.unwrap_or(root)), layout, parameters, true).map(|_| ())
        }
    }

    fn unreadable(&self, source: std::io::Error) -> ForeignError {
        ForeignError::File { path: self.file.clone(), source }
    }

    fn content(&self, message: String) -> ForeignError {
        ForeignError::Content { path: self.file.clone(), message }
    }
}

/// What `init_from` says of the model and the tokenizer: the keys of the config that it gives where they are not set.
///
/// # Errors
/// A `config.json` of another model, or a file that is no checkpoint.
pub fn hub_settings(path: &Path) -> Result<toml::Table, ForeignError> {
    let content = |message: String| ForeignError::Content { path: path.to_path_buf(), message };
    let mut model = toml::Table::new();
    let mut data = toml::Table::new();
    if path.is_dir() {
        let file = path.join("config.json");
        let text = std::fs::read_to_string(&file)
            .map_err(|source| ForeignError::File { path: file.clone(), source })?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| content(format!("config.json: {error}")))?;
        let kind = json.get("model_type").and_then(serde_json::Value::as_str).unwrap_or("gpt2");
        let activation =
            json.get("activation_function").and_then(serde_json::Value::as_str).unwrap_or("gelu_new");
        let inner = json.get("n_inner").and_then(serde_json::Value::as_u64);
        let width = json.get("n_embd").and_then(serde_json::Value::as_u64);
        if kind != "gpt2" || !["gelu_new", "gelu_pytorch_tanh"].contains(&activation) {
            return Err(content(format!(
                "config.json describes {kind} with {activation}, and keepstep trains gpt2 with gelu_new"
            )));
        }
        if inner.is_some() && inner != width.map(|width| 4 * width) {
            return Err(content("config.json has an n_inner other than 4 * n_embd".to_owned()));
        }
        for (from, to) in [
            ("n_positions", "block_size"),
            ("n_layer", "n_layer"),
            ("n_head", "n_head"),
            ("n_embd", "n_embd"),
        ] {
            let value = json.get(from).and_then(serde_json::Value::as_i64);
            let value = value.ok_or_else(|| content(format!("config.json has no {from}")))?;
            model.insert(to.to_owned(), value.into());
        }
        let epsilon = json.get("layer_norm_epsilon").and_then(serde_json::Value::as_f64).unwrap_or(1e-5);
        model.insert("layer_norm_epsilon".to_owned(), epsilon.into());
        let tokenizer = path.join("tokenizer.json");
        if tokenizer.exists() {
            data.insert("tokenizer".to_owned(), tokenizer.display().to_string().into());
        }
    } else {
        let file = File::open(path)?;
        let config = file.value().as_dict().and_then(|root| root.get("config")?.as_dict());
        let sizes = config.and_then(|config| config.get("model")?.as_dict());
        let sizes = sizes.ok_or_else(|| {
            content("it is no checkpoint of keepstep: its `config` has no `model`".to_owned())
        })?;
        for key in ["block_size", "n_layer", "n_head", "n_embd", "layer_norm_epsilon"] {
            match sizes.get(key) {
                Some(Value::Int(value)) => model.insert(key.to_owned(), (*value).into()),
                Some(Value::Float(value)) => model.insert(key.to_owned(), (*value).into()),
                _ => return Err(content(format!("its `config.model` has no `{key}`"))),
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
