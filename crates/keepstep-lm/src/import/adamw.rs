//! Checks that an optimizer's state dict belongs to `torch.optim.AdamW`.
//!
//! PyTorch stores no class name, so the keys of groups and states are the evidence. They distinguish AdamW from every
//! other optimizer of `torch.optim`; `crates/keepstep-cli/tests/torch.rs` compares with the real ones.

use crate::hub::numbers::{kind, number};
use keepstep_model::train::adamw::ParamGroup;
use keepstep_pt::{Dict, Value};

/// Keys of AdamW's groups in every version of PyTorch.
const REQUIRED: [&str; 6] = ["lr", "betas", "eps", "weight_decay", "amsgrad", "params"];

/// Keys of newer versions, of schedulers (`initial_lr` to `max_momentum`), and of users who name their groups.
const ALLOWED: [&str; 13] = [
    "maximize",
    "foreach",
    "capturable",
    "differentiable",
    "fused",
    "decoupled_weight_decay",
    "param_names",
    "initial_lr",
    "min_lr",
    "max_lr",
    "swa_lr",
    "base_momentum",
    "max_momentum",
];

/// The keys of a tensor's state.
const STATE: [&str; 3] = ["step", "exp_avg", "exp_avg_sq"];

/// Keys that occur in the groups or states of one optimizer only.
const SIGNATURES: [(&str, &str); 20] = [
    ("momentum_decay", "NAdam"),
    ("mu_product", "NAdam"),
    ("exp_inf", "Adamax"),
    ("rho", "Adadelta"),
    ("lr_decay", "Adagrad"),
    ("beta2_decay", "Adafactor"),
    ("relative_step", "transformers' Adafactor"),
    ("lambd", "ASGD"),
    ("etas", "Rprop"),
    ("centered", "RMSprop"),
    ("ns_steps", "Muon"),
    ("history_size", "LBFGS"),
    ("nesterov", "SGD"),
    ("correct_bias", "the AdamW that transformers used to have, whose rule differs from PyTorch's"),
    ("bias_correction", "apex' FusedAdam"),
    ("state1", "an 8-bit optimizer of bitsandbytes"),
    ("state1_8bit", "an 8-bit optimizer of bitsandbytes"),
    ("d_coef", "Prodigy or D-Adaptation"),
    ("warmup_steps", "a schedule-free optimizer"),
    ("slow_step_counter", "a Lookahead or Ranger optimizer"),
];

/// One group: its hyperparameters, the ids of its tensors, and their names if the file has them.
pub(crate) struct Group {
    /// The hyperparameters, without tensors. `learning_rate` is the rate that a schedule's factor multiplies.
    pub(crate) settings: ParamGroup,
    /// The rate when the file was saved.
    pub(crate) rate: f64,
    pub(crate) params: Vec<i64>,
    pub(crate) names: Option<Vec<String>>,
    /// Whether the weight decay could be either AdamW's or Adam's: the file does not show which.
    pub(crate) may_be_adam: bool,
}

impl Group {
    /// Reads group number `index`.
    pub(crate) fn read(index: usize, value: &Value) -> Result<Group, String> {
        let place = format!("optimizer_state_dict.param_groups[{index}]");
        let dict = value.as_dict().ok_or_else(|| format!("`{place}` is {}, not a dict", kind(value)))?;
        refuse_others(&place, dict)?;
        let float = |key: &str| {
            let value = dict.get(key).unwrap_or(&Value::None);
            number(value).ok_or_else(|| format!("`{place}.{key}` is {}, not a number", kind(value)))
        };
        for key in ["amsgrad", "maximize"] {
            if dict.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(format!("`{place}.{key}` is True, and keepstep's AdamW has no such variant"));
            }
        }
        let weight_decay = float("weight_decay")?;
        let decays = weight_decay != 0.0;
        let decoupled = decoupled(dict);
        if decays && decoupled == Some(false) {
            return Err(format!("`{place}` is Adam's, whose weight decay is not AdamW's"));
        }
        let betas = match dict.get("betas").and_then(Value::as_list) {
            Some([first, second]) => number(first).zip(number(second)),
            _ => None,
        };
        let (first, second) = betas.ok_or_else(|| format!("`{place}.betas` is not two numbers"))?;
        let params = dict.get("params").and_then(Value::as_list).unwrap_or_default();
        let params: Option<Vec<i64>> = params.iter().map(Value::as_int).collect();
        let names = dict.get("param_names").and_then(Value::as_list);
        let names =
            names.and_then(|names| names.iter().map(|name| Some(name.as_str()?.to_owned())).collect());
        let rate = float("lr")?;
        let learning_rate = if dict.get("initial_lr").is_some() { float("initial_lr")? } else { rate };
        Ok(Group {
            settings: ParamGroup {
                learning_rate,
                betas: [first, second],
                eps: float("eps")?,
                weight_decay,
                tensors: Vec::new(),
            },
            rate,
            params: params.ok_or_else(|| format!("`{place}.params` is not a list of ints"))?,
            names,
            may_be_adam: decays && decoupled.is_none(),
        })
    }
}

/// Refuses a state with keys that AdamW does not have.
pub(crate) fn check_state(id: i64, state: &Dict) -> Result<(), String> {
    let place = format!("optimizer_state_dict.state[{id}]");
    match state.iter().find(|(key, _)| !key.as_str().is_some_and(|key| STATE.contains(&key))) {
        Some((key, _)) => Err(another(&place, key.as_str().unwrap_or("a key that is not a string"))),
        None => Ok(()),
    }
}

fn refuse_others(place: &str, dict: &Dict) -> Result<(), String> {
    let unknown = dict.iter().filter_map(|(key, value)| {
        let key = key.as_str().unwrap_or("a key that is not a string");
        // A string can name a group and affects no result.
        let is_known = REQUIRED.contains(&key) || ALLOWED.contains(&key) || value.as_str().is_some();
        (!is_known).then_some(key)
    });
    let unknown: Vec<&str> = unknown.collect();
    let telling = unknown.iter().find(|key| SIGNATURES.iter().any(|(known, _)| known == *key));
    if let Some(key) = telling.or(unknown.first()) {
        return Err(another(place, key));
    }
    let missing: Vec<&str> = REQUIRED.into_iter().filter(|key| dict.get(key).is_none()).collect();
    match missing.as_slice() {
        [] => Ok(()),
        ["amsgrad"]
            if dict.get("decoupled_weight_decay").is_some() || dict.get("differentiable").is_some() =>
        {
            Err(format!(
                "`{place}` has no `amsgrad`: the optimizer is RAdam, Adamax or another, not torch.optim.AdamW"
            ))
        }
        [key, ..] => Err(format!("`{place}` has no `{key}`: the optimizer is not torch.optim.AdamW")),
    }
}

fn another(place: &str, key: &str) -> String {
    match SIGNATURES.iter().find(|(known, _)| *known == key) {
        Some((_, name)) => {
            format!(
                "the optimizer is {name} (`{place}` has `{key}`), and keepstep trains with torch.optim.AdamW's rule"
            )
        }
        None => format!("`{place}` has `{key}`, which groups and states of torch.optim.AdamW do not have"),
    }
}

/// Reports whether the weight decay is decoupled, as in AdamW. PyTorch stores this from version 2.7 on. From 1.12 on,
/// the order of the keys shows it: Adam's groups have `maximize` before `foreach`, and AdamW's have it after.
fn decoupled(dict: &Dict) -> Option<bool> {
    if let Some(decoupled) = dict.get("decoupled_weight_decay").and_then(Value::as_bool) {
        return Some(decoupled);
    }
    let place = |name: &str| dict.iter().position(|(key, _)| key.as_str() == Some(name));
    Some(place("foreach")? < place("maximize")?)
}
