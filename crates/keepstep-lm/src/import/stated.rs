//! Compares the model settings in a notebook's checkpoint with the config. Shapes do not show these settings.

use crate::config::Config;
use crate::hub::gpt2_config::Gpt2Config;
use crate::hub::numbers::{count, number};
use keepstep_pt::{Dict, Value};

/// The keys under which training loops store their settings.
const PLACES: [&str; 6] = ["model_args", "config", "model_config", "gpt_config", "args", "hparams"];

/// Compares the settings in the file with the config, and returns messages for the user.
///
/// # Errors
/// Fails if the file's model computes something different from the config's.
pub(crate) fn check(root: &Dict, config: &Config) -> Result<Vec<String>, String> {
    let mut notes = Vec::new();
    let places = PLACES.iter().filter_map(|place| Some((*place, root.get(place)?.as_dict()?)));
    for (place, dict) in places {
        let first = |keys: &[&'static str]| keys.iter().find_map(|key| Some((*key, dict.get(key)?)));
        let heads = first(&["n_head", "n_heads", "num_heads", "num_attention_heads"]);
        if let Some((key, heads)) = heads.and_then(|(key, value)| Some((key, count(value)?)))
            && usize::try_from(heads) != Ok(config.model.n_head)
        {
            return Err(format!(
                "`{place}.{key}` is {heads}, and model.n_head is {} in the config: the same weights would compute \
                 something else",
                config.model.n_head
            ));
        }
        if dict.get("bias").and_then(Value::as_bool) == Some(false) {
            return Err(format!(
                "`{place}.bias` is False: the model has no biases, and keepstep trains GPT-2, whose linear layers and \
                 LayerNorms have them"
            ));
        }
        // The output of transformers' `model.config.to_dict()`.
        if dict.get("model_type").and_then(Value::as_str) == Some("gpt2") {
            Gpt2Config::read(&to_json(dict)).map_err(|problem| format!("`{place}`: {problem}"))?;
        }
        for (keys, ours, name) in [
            (
                &["layer_norm_epsilon", "layer_norm_eps"][..],
                config.model.layer_norm_epsilon,
                "layer_norm_epsilon",
            ),
            (&["dropout"][..], config.model.dropout, "dropout"),
        ] {
            if let Some((key, theirs)) = first(keys).and_then(|(key, value)| Some((key, number(value)?)))
                && theirs != ours
            {
                notes.push(format!(
                    "`{place}.{key}` is {theirs} in the file; the run continues with model.{name} = {ours}"
                ));
            }
        }
    }
    Ok(notes)
}

fn to_json(dict: &Dict) -> serde_json::Map<String, serde_json::Value> {
    fn value(entry: &Value) -> serde_json::Value {
        match entry {
            Value::Bool(flag) => (*flag).into(),
            Value::Int(int) => (*int).into(),
            Value::Float(float) => (*float).into(),
            Value::Str(text) => text.as_str().into(),
            Value::List(items) | Value::Tuple(items) => items.iter().map(value).collect(),
            Value::Dict(dict) | Value::OrderedDict(dict) => to_json(dict).into(),
            _ => serde_json::Value::Null,
        }
    }
    let entries = dict.iter().filter_map(|(key, entry)| Some((key.as_str()?.to_owned(), value(entry))));
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(place: &str, key: &str, value: impl Into<Value>) -> Dict {
        let (mut root, mut inner) = (Dict::new(), Dict::new());
        inner.insert(key, value);
        root.insert(place, inner);
        root
    }

    #[test]
    fn what_no_shape_tells_is_compared() {
        let config = Config::default();
        let heads = config.model.n_head as i64;
        assert_eq!(check(&file("model_args", "n_head", heads), &config), Ok(Vec::new()));
        for (place, key) in [("model_args", "n_head"), ("config", "num_attention_heads")] {
            let error = check(&file(place, key, heads + 1), &config).expect_err(key);
            assert!(error.contains(&format!("{place}.{key}")), "{error}");
        }
        assert!(check(&file("model_args", "bias", false), &config).is_err());
        assert_eq!(check(&file("config", "dropout", 0.25), &config).expect("a note").len(), 1);
        let mut gpt2 = Dict::new();
        gpt2.insert("model_type", "gpt2");
        gpt2.insert("scale_attn_by_inverse_layer_idx", true);
        let mut root = Dict::new();
        root.insert("config", gpt2);
        assert!(
            check(&root, &config).expect_err("another model").contains("scale_attn_by_inverse_layer_idx")
        );
    }
}
