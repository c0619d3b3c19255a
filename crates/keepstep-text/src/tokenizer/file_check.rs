//! Checks the parts of a `tokenizer.json` that do not define how text becomes tokens.
//!
//! transformers also saves the state of the tokenizer's last call. It must not truncate or pad a corpus.
//!
//! | Part of the file | Treatment |
//! |---|---|
//! | `truncation`, `padding` | not applied, with a note: they are the state of a call |
//! | `model.dropout` above 0 | refused: the same text would become different tokens each time |
//! | `post_processor` | not applied: it adds the tokens of a task; refused if it would repeat or omit the text itself |
//! | `normalizer`, `pre_tokenizer`, `added_tokens`, everything else of `model` | applied |
//! | `decoder` | applied when tokens become text |

use serde_json::Value;
use tokenizers::Tokenizer as Library;

/// Refuses a file that leaves the tokens of a text undefined. The error states what is wrong.
pub(super) fn check(json: &str) -> Result<(), String> {
    let Ok(json) = serde_json::from_str::<Value>(json) else { return Ok(()) };
    if let Some(dropout) = json["model"]["dropout"].as_f64().filter(|&dropout| dropout > 0.0) {
        return Err(format!(
            "`model.dropout` is {dropout}, and the same text would become different tokens each time; set it to null"
        ));
    }
    if !keeps_text(&json["post_processor"]) {
        return Err("its `post_processor` repeats or omits the text; set it to null".to_owned());
    }
    Ok(())
}

/// Reports whether the output of a post-processor contains the text exactly once.
fn keeps_text(processor: &Value) -> bool {
    match processor["type"].as_str() {
        Some("TemplateProcessing") => {
            let parts = processor["single"].as_array();
            let is_text = |part: &&Value| part["Sequence"]["id"] == "A";
            parts.is_none_or(|parts| parts.iter().filter(is_text).count() == 1)
        }
        Some("Sequence") => processor["processors"].as_array().is_none_or(|all| all.iter().all(keeps_text)),
        _ => true,
    }
}

/// Removes the state of a call. Returns the removed keys, each with the effect that it would have had.
pub(super) fn remove_call_state(library: &mut Library) -> Vec<&'static str> {
    let mut removed = Vec::new();
    if library.get_truncation().is_some() {
        removed.push("`truncation`, which would cut each text");
        // Setting `None` cannot fail.
        let _ = library.with_truncation(None);
    }
    if library.get_padding().is_some() {
        removed.push("`padding`, which would lengthen each text");
        library.with_padding(None);
    }
    removed
}
