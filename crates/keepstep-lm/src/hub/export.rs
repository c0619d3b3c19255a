//! Exports a checkpoint's weights as safetensors, or as a folder in the layout of the Hugging Face hub.

use crate::hub::trained::{TrainedModel, TrainedModelError};
use keepstep::Checkpoint;
use keepstep_model::layout::Layout;
use keepstep_text::tokenizer::TOKENIZER_FILE;
use safetensors::tensor::TensorView;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `config.json`, `model.safetensors` and the tokenizer, for `from_pretrained`.
    HuggingFace,
    /// `model.safetensors` only.
    Safetensors,
}

/// Why a checkpoint cannot be exported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The checkpoint holds no language model.
    #[error(transparent)]
    Checkpoint(#[from] TrainedModelError),
    /// The tensors cannot be serialized.
    #[error("the tensors cannot be written as safetensors")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// A file cannot be written.
    #[error("{path}: the file cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Writes the files into `folder`, which is created if it is missing, and returns their paths. Each file gets its name
/// only once it is complete.
///
/// # Errors
/// See [`ExportError`].
pub fn export(
    checkpoint: &Checkpoint,
    place: &str,
    format: Format,
    folder: &Path,
) -> Result<Vec<PathBuf>, ExportError> {
    let TrainedModel { model, parameters, tokenizer } = TrainedModel::from_checkpoint(checkpoint, place)?;
    let layout = model.layout();

    let mut files = vec![("model.safetensors", weights(&layout, &parameters)?)];
    if format == Format::HuggingFace {
        let end = tokenizer.end_of_text();
        let config = json!({
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
            "vocab_size": model.vocab_size, "n_positions": model.block_size, "n_ctx": model.block_size,
            "n_embd": model.n_embd, "n_layer": model.n_layer, "n_head": model.n_head, "n_inner": null,
            "resid_pdrop": model.dropout, "embd_pdrop": model.dropout, "attn_pdrop": model.dropout,
            "layer_norm_epsilon": model.layer_norm_epsilon, "tie_word_embeddings": true, "scale_attn_weights": true,
            "scale_attn_by_inverse_layer_idx": false, "reorder_and_upcast_attn": false, "add_cross_attention": false,
            "bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "dtype": "float32",
        });
        let generation = json!({ "bos_token_id": end, "eos_token_id": end, "pad_token_id": end });
        let mut settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.block_size,
            "clean_up_tokenization_spaces": false,
        });
        if let Some(token) = end.and_then(|end| tokenizer.token(end)) {
            for key in ["bos_token", "eos_token", "pad_token"] {
                settings[key] = token.clone().into();
            }
        }
        for (name, json) in [
            ("config.json", config),
            ("generation_config.json", generation),
            ("tokenizer_config.json", settings),
        ] {
            files.push((name, format!("{json:#}\n").into_bytes()));
        }
        files.push((TOKENIZER_FILE, tokenizer.json().as_bytes().to_vec()));
    }
    let unwritable = |path: &Path, source| ExportError::Write { path: path.to_path_buf(), source };
    std::fs::create_dir_all(folder).map_err(|source| unwritable(folder, source))?;
    let mut written = Vec::new();
    for (name, bytes) in files {
        let path = folder.join(name);
        keepstep::store::write_whole(&path, &bytes).map_err(|source| unwritable(&path, source))?;
        written.push(path);
    }
    Ok(written)
}

/// Serializes the weights. The tied head is omitted, as in `save_pretrained`.
fn weights(layout: &Layout, parameters: &[f32]) -> Result<Vec<u8>, ExportError> {
    let mut views = Vec::new();
    for tensor in layout.tensors() {
        let bytes = bytemuck::cast_slice(&parameters[tensor.offset..tensor.offset + tensor.len()]);
        let view = TensorView::new(safetensors::Dtype::F32, tensor.shape.clone(), bytes)?;
        views.push((tensor.name.clone(), view));
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok(safetensors::serialize(views, Some(metadata))?)
}
