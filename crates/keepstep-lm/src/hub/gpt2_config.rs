//! The keys of transformers' `GPT2Config`: those that keepstep uses, those without effect here, and those that it
//! refuses.

use serde_json::{Map, Value};

/// The model settings in a `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gpt2Config {
    pub(crate) block_size: usize,
    pub(crate) n_layer: usize,
    pub(crate) n_head: usize,
    pub(crate) n_embd: usize,
    pub(crate) vocab_size: usize,
    pub(crate) layer_norm_epsilon: f64,
    /// The three dropout rates that the model's authors trained with.
    pub(crate) dropout: Vec<(&'static str, f64)>,
    pub(crate) end_of_text: Option<u64>,
    /// Keys that keepstep does not know.
    pub(crate) unknown: Vec<String>,
}

/// Sizes: each name, its alias in `GPT2Config.attribute_map`, and its default.
const SIZES: [(&str, &str, u64); 5] = [
    ("n_positions", "max_position_embeddings", 1024),
    ("n_layer", "num_hidden_layers", 12),
    ("n_head", "num_attention_heads", 12),
    ("n_embd", "hidden_size", 768),
    ("vocab_size", "vocab_size", 50_257),
];

/// Flags that change what the model computes, each with the only value that keepstep supports.
const FIXED: [(&str, bool); 5] = [
    ("scale_attn_weights", true),
    ("scale_attn_by_inverse_layer_idx", false),
    ("add_cross_attention", false),
    ("tie_word_embeddings", true),
    ("is_encoder_decoder", false),
];

/// Keys that must be empty: parts that are pruned, or stored in another form.
const EMPTY: [&str; 2] = ["pruned_heads", "quantization_config"];

/// The names of the tanh approximation of GELU.
const ACTIVATIONS: [&str; 2] = ["gelu_new", "gelu_pytorch_tanh"];

const DROPOUT: [&str; 3] = ["resid_pdrop", "embd_pdrop", "attn_pdrop"];

/// Keys without effect on keepstep's results: names and records, heads that a language model does not have, initial
/// values (the file has the weights), the form of outputs, and defaults of `generate`.
const WITHOUT_EFFECT: &[&str] = &[
    // Handled elsewhere.
    "model_type",
    "activation_function",
    "n_inner",
    "layer_norm_epsilon",
    "eos_token_id",
    // Records.
    "architectures",
    "transformers_version",
    "name_or_path",
    "dtype",
    "torch_dtype",
    "finetuning_task",
    "tokenizer_class",
    "task_specific_params",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "n_ctx",
    "prefix",
    "license",
    "model_name",
    // Heads of other models.
    "summary_type",
    "summary_use_proj",
    "summary_activation",
    "summary_proj_to_labels",
    "summary_first_dropout",
    // The same values in float32, computed in another order.
    "reorder_and_upcast_attn",
    // Initial values, outputs, memory.
    "initializer_range",
    "use_cache",
    "output_past",
    "output_hidden_states",
    "output_attentions",
    "return_dict",
    "return_dict_in_generate",
    "output_scores",
    "torchscript",
    "gradient_checkpointing",
    "chunk_size_feed_forward",
    "use_bfloat16",
    "tf_legacy_loss",
    "is_decoder",
    "cross_attention_hidden_size",
    "tie_encoder_decoder",
    "attn_implementation",
    "keys_to_ignore_at_inference",
    // Tokens that only `generate` and training scripts use.
    "bos_token_id",
    "pad_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    // Defaults of `generate`.
    "max_length",
    "max_new_tokens",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "num_return_sequences",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
];

impl Gpt2Config {
    /// Reads a `config.json`, or the same dict from a notebook's checkpoint.
    ///
    /// # Errors
    /// Fails if a key asks for something that keepstep does not support. The text names the key.
    pub(crate) fn read(json: &Map<String, Value>) -> Result<Gpt2Config, String> {
        let set = |key: &str| json.get(key).filter(|value| !value.is_null());
        let refuse = |key: &str, expected: String| match set(key) {
            Some(value) => Err(format!("`{key}` is {value}, and keepstep supports {expected}")),
            None => Ok(()),
        };
        if set("model_type").is_some_and(|kind| kind != "gpt2") {
            refuse("model_type", "\"gpt2\" only".to_owned())?;
        }
        if set("activation_function").is_some_and(|name| !ACTIVATIONS.iter().any(|known| name == known)) {
            refuse("activation_function", format!("{} only", ACTIVATIONS.join(" and ")))?;
        }
        for (key, value) in FIXED {
            if set(key).is_some_and(|found| *found != value) {
                refuse(key, format!("{value} only"))?;
            }
        }
        for key in EMPTY {
            let is_empty = |value: &Value| {
                value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
            };
            if set(key).is_some_and(|value| !is_empty(value)) {
                refuse(key, "whole models in plain numbers only".to_owned())?;
            }
        }
        let mut sizes = [0; SIZES.len()];
        for (size, (name, other, default)) in sizes.iter_mut().zip(SIZES) {
            if let (Some(one), Some(two)) = (set(name), set(other))
                && one != two
            {
                return Err(format!("`{name}` is {one} and `{other}`, another name for it, is {two}"));
            }
            let found = set(name).or_else(|| set(other));
            let value =
                found.map_or(Some(default), Value::as_u64).and_then(|value| usize::try_from(value).ok());
            *size =
                value.ok_or_else(|| format!("`{name}` is {}, not a size", found.unwrap_or(&Value::Null)))?;
        }
        let [block_size, n_layer, n_head, n_embd, vocab_size] = sizes;
        if set("n_inner").is_some_and(|inner| inner.as_u64() != Some(4 * n_embd as u64)) {
            refuse("n_inner", format!("4 * n_embd, which is {}, only", 4 * n_embd))?;
        }
        let number = |key: &'static str, default: f64| {
            let value = set(key).map_or(Some(default), Value::as_f64);
            value.ok_or_else(|| format!("`{key}` is {}, not a number", set(key).unwrap_or(&Value::Null)))
        };
        let dropout = DROPOUT.map(|key| Ok((key, number(key, 0.1)?)));
        let is_known = |key: &str| {
            key.starts_with('_')
                || WITHOUT_EFFECT.contains(&key)
                || EMPTY.contains(&key)
                || DROPOUT.contains(&key)
                || FIXED.iter().any(|(known, _)| *known == key)
                || SIZES.iter().any(|(name, other, _)| [*name, *other].contains(&key))
        };
        Ok(Gpt2Config {
            block_size,
            n_layer,
            n_head,
            n_embd,
            vocab_size,
            layer_norm_epsilon: number("layer_norm_epsilon", 1e-5)?,
            dropout: dropout.into_iter().collect::<Result<_, String>>()?,
            end_of_text: set("eos_token_id").and_then(Value::as_u64),
            unknown: json.keys().filter(|key| !is_known(key)).cloned().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: Value) -> Result<Gpt2Config, String> {
        Gpt2Config::read(json.as_object().expect("an object"))
    }

    #[test]
    fn every_flag_that_changes_the_model_is_refused_by_name() {
        for (key, value) in [
            ("scale_attn_by_inverse_layer_idx", json!(true)),
            ("scale_attn_weights", json!(false)),
            ("add_cross_attention", json!(true)),
            ("tie_word_embeddings", json!(false)),
            ("is_encoder_decoder", json!(true)),
            ("activation_function", json!("gelu")),
            ("activation_function", json!("relu")),
            ("model_type", json!("llama")),
            ("n_inner", json!(100)),
            ("pruned_heads", json!({"0": [1]})),
            ("quantization_config", json!({"bits": 4})),
            ("n_head", json!("two")),
            ("hidden_size", json!(99)),
        ] {
            let error = read(json!({"n_embd": 32, key: value})).expect_err(key);
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    #[test]
    fn sizes_have_two_names_and_defaults() {
        let found = read(json!({
            "model_type": "gpt2", "num_hidden_layers": 2, "n_embd": 32, "hidden_size": 32, "n_inner": 128,
            "activation_function": "gelu_pytorch_tanh", "scale_attn_weights": true, "reorder_and_upcast_attn": true,
            "pruned_heads": {}, "attention_head_type": "multiquery", "_name_or_path": "x", "resid_pdrop": 0,
        }))
        .expect("a GPT-2");
        assert_eq!((found.n_layer, found.n_embd, found.n_head, found.block_size), (2, 32, 12, 1024));
        assert_eq!((found.vocab_size, found.layer_norm_epsilon), (50_257, 1e-5));
        assert_eq!(found.dropout, [("resid_pdrop", 0.0), ("embd_pdrop", 0.1), ("attn_pdrop", 0.1)]);
        assert_eq!(found.unknown, ["attention_head_type"]);
    }
}
