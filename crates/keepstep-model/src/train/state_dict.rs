//! Converts between training states and the state dicts of model, optimizer and scheduler, with PyTorch's names and
//! shapes.

use crate::layout::{Layout, NamedTensor};
use crate::train::adamw::ParamGroup;
use crate::train::shared_buffer::SharedBuffer;
use keepstep_pt::{Dict, Dtype, ReadError, Storage, Tensor, Value};
use thiserror::Error;

/// Why a state dict does not fit the model of the config.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateDictError {
    /// The file does not have a tensor of the model.
    #[error("`{dict}` does not have `{name}`, which the model has: it is a checkpoint of another model")]
    Missing {
        /// The state dict.
        dict: &'static str,
        /// The missing entry.
        name: String,
    },
    /// The file has an entry that does not belong to the model.
    #[error("`{dict}` has `{name}`, which the model does not have: it is a checkpoint of another model")]
    Extra {
        /// The state dict.
        dict: &'static str,
        /// The extra entry.
        name: String,
    },
    /// A tensor has another shape.
    #[error("`{name}` has shape {found:?} in the checkpoint and {expected:?} in the model of the config")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the model.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// A value has the wrong type.
    #[error("`{name}` is not {expected}")]
    Kind {
        /// The name of the value.
        name: String,
        /// The type that it should have.
        expected: &'static str,
    },
    /// A value contradicts the checkpoint's own count of updates.
    #[error("`{name}` is {found} where the checkpoint's own count makes it {expected}")]
    Contradiction {
        /// The name of the value.
        name: String,
        /// The expected value.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// A tensor's bytes cannot be read.
    #[error("`{name}` cannot be read")]
    Read {
        /// The tensor.
        name: String,
        /// The cause.
        source: ReadError,
    },
}

/// Returns the model's `state_dict()`. Each tensor has its own storage, which its tied names share.
pub fn model_state_dict(layout: &Layout, parameters: &SharedBuffer) -> Value {
    let views: Vec<Tensor> = layout.tensors().iter().map(|tensor| view(tensor, parameters)).collect();
    let mut dict = Dict::new();
    for (tensor, view) in layout.tensors().iter().zip(&views) {
        dict.insert(tensor.name.as_str(), view.clone());
    }
    for (name, index) in layout.tied() {
        dict.insert(
            name.as_str(),
            Tensor::new(views[*index].storage().clone(), views[*index].shape().to_vec()),
        );
    }
    Value::OrderedDict(dict)
}

/// Loads a model's state dict, which must contain exactly the tensors of the model.
pub fn load_model(value: &Value, layout: &Layout, parameters: &mut [f32]) -> Result<(), StateDictError> {
    const DICT: &str = "model_state_dict";
    let dict = as_dict(value, DICT)?;
    for tensor in layout.tensors() {
        read(dict.get(&tensor.name), DICT, tensor, &tensor.name, parameters)?;
    }
    let known = |name: &str| {
        layout.tied().iter().any(|(tied, _)| tied == name)
            || layout.tensors().iter().any(|tensor| tensor.name == name)
    };
    refuse_extra(dict, DICT, known)
}

/// Returns `torch.optim.AdamW.state_dict()` with a scheduler attached.
///
/// Each group's `lr` is its rate times `factor`: the rate of the next update, as in PyTorch after `scheduler.step()`.
pub fn optimizer_state_dict(
    layout: &Layout,
    groups: &[ParamGroup],
    factor: f64,
    exp_avg: &SharedBuffer,
    exp_avg_sq: &SharedBuffer,
    num_updates: u64,
) -> Value {
    let mut state = Dict::new();
    if num_updates > 0 {
        for (index, tensor) in tensors(layout, groups).enumerate() {
            let mut entry = Dict::new();
            // PyTorch counts in float32. The exact count is stored under `keepstep`.
            entry.insert("step", Tensor::scalar(num_updates as f32));
            entry.insert("exp_avg", view(tensor, exp_avg));
            entry.insert("exp_avg_sq", view(tensor, exp_avg_sq));
            state.insert(Value::Int(index as i64), Value::Dict(entry));
        }
    }
    let mut first = 0;
    let mut param_groups = Vec::new();
    for group in groups {
        let params = (first..first + group.tensors.len()).map(|index| Value::Int(index as i64)).collect();
        first += group.tensors.len();
        let mut dict = Dict::new();
        dict.insert("lr", group.learning_rate * factor);
        dict.insert("betas", Value::Tuple(group.betas.iter().map(|&beta| Value::Float(beta)).collect()));
        dict.insert("eps", group.eps);
        dict.insert("weight_decay", group.weight_decay);
        for flag in ["amsgrad", "maximize"] {
            dict.insert(flag, false);
        }
        dict.insert("foreach", Value::None);
        for flag in ["capturable", "differentiable"] {
            dict.insert(flag, false);
        }
        dict.insert("fused", Value::None);
        dict.insert("decoupled_weight_decay", true);
        dict.insert("initial_lr", group.learning_rate);
        dict.insert("params", Value::List(params));
        param_groups.push(Value::Dict(dict));
    }
    let mut dict = Dict::new();
    dict.insert("state", Value::Dict(state));
    dict.insert("param_groups", Value::List(param_groups));
    Value::Dict(dict)
}

/// Loads the two moments. Hyperparameters are compared elsewhere.
pub fn load_optimizer(
    value: &Value,
    layout: &Layout,
    groups: &[ParamGroup],
    num_updates: u64,
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
) -> Result<(), StateDictError> {
    const DICT: &str = "optimizer_state_dict";
    let dict = as_dict(value, DICT)?;
    refuse_extra(dict, DICT, |name| matches!(name, "state" | "param_groups"))?;
    let missing = |name: &str| StateDictError::Missing { dict: DICT, name: name.to_owned() };
    let state = as_dict(dict.get("state").ok_or_else(|| missing("state"))?, "optimizer_state_dict.state")?;
    let expected = if num_updates == 0 { 0 } else { layout.tensors().len() };
    if state.len() != expected {
        return Err(StateDictError::Contradiction {
            name: "optimizer_state_dict.state".to_owned(),
            expected: format!("{expected} entries"),
            found: format!("{} entries", state.len()),
        });
    }
    if num_updates == 0 {
        return Ok(());
    }
    for (index, tensor) in tensors(layout, groups).enumerate() {
        let place = format!("optimizer_state_dict.state[{index}]");
        let entry = state.iter().find(|(key, _)| **key == Value::Int(index as i64)).map(|(_, entry)| entry);
        let entry = as_dict(entry.ok_or_else(|| missing(&place))?, &place)?;
        refuse_extra(entry, DICT, |name| matches!(name, "step" | "exp_avg" | "exp_avg_sq"))?;
        let mut step = [0.0_f32];
        read_values(entry.get("step"), DICT, &[], &format!("{place}.step"), &mut step)?;
        if step[0] != num_updates as f32 {
            return Err(StateDictError::Contradiction {
                name: format!("{place}.step"),
                expected: num_updates.to_string(),
                found: step[0].to_string(),
            });
        }
        read(entry.get("exp_avg"), DICT, tensor, &format!("{place}.exp_avg"), exp_avg)?;
        read(entry.get("exp_avg_sq"), DICT, tensor, &format!("{place}.exp_avg_sq"), exp_avg_sq)?;
    }
    Ok(())
}

/// Returns `torch.optim.lr_scheduler.LambdaLR.state_dict()` after `num_updates` updates.
pub fn scheduler_state_dict(groups: &[ParamGroup], factor: f64, num_updates: u64) -> Value {
    let each = |value: &dyn Fn(&ParamGroup) -> Value| Value::List(groups.iter().map(value).collect());
    let mut dict = Dict::new();
    dict.insert("base_lrs", each(&|group| Value::Float(group.learning_rate)));
    dict.insert("last_epoch", Value::Int(num_updates as i64));
    dict.insert("_step_count", Value::Int(num_updates as i64 + 1));
    dict.insert("_is_initial", false);
    dict.insert("_get_lr_called_within_step", false);
    dict.insert("_last_lr", each(&|group| Value::Float(group.learning_rate * factor)));
    dict.insert("lr_lambdas", each(&|_| Value::None));
    Value::Dict(dict)
}

/// Checks that the scheduler's state agrees with the run's own count of updates.
pub fn check_scheduler(
    value: &Value,
    groups: &[ParamGroup],
    num_updates: u64,
    factor: f64,
) -> Result<(), StateDictError> {
    const DICT: &str = "scheduler_state_dict";
    let dict = as_dict(value, DICT)?;
    let last_epoch = dict.get("last_epoch").and_then(Value::as_int);
    if last_epoch != Some(num_updates as i64) {
        return Err(StateDictError::Contradiction {
            name: format!("{DICT}.last_epoch"),
            expected: num_updates.to_string(),
            found: last_epoch.map_or("missing".to_owned(), |value| value.to_string()),
        });
    }
    let rates = dict.get("_last_lr").and_then(Value::as_list).unwrap_or_default();
    let found: Vec<Option<f64>> = rates.iter().map(Value::as_float).collect();
    let expected: Vec<f64> = groups.iter().map(|group| group.learning_rate * factor).collect();
    let same = found.len() == expected.len()
        && found
            .iter()
            .zip(&expected)
            .all(|(found, expected)| found.map(f64::to_bits) == Some(expected.to_bits()));
    if !same {
        return Err(StateDictError::Contradiction {
            name: format!("{DICT}._last_lr"),
            expected: format!("{expected:?}"),
            found: format!("{found:?}"),
        });
    }
    Ok(())
}

/// Returns the tensors in the optimizer's order.
fn tensors<'a>(layout: &'a Layout, groups: &'a [ParamGroup]) -> impl Iterator<Item = &'a NamedTensor> {
    groups.iter().flat_map(|group| &group.tensors).map(|&index| &layout.tensors()[index])
}

fn view(tensor: &NamedTensor, buffer: &SharedBuffer) -> Tensor {
    const SIZE: usize = size_of::<f32>();
    let bytes = tensor.offset * SIZE..(tensor.offset + tensor.len()) * SIZE;
    Tensor::new(Storage::shared(buffer.share(), bytes, Dtype::F32), tensor.shape.clone())
}

fn as_dict<'a>(value: &'a Value, name: &str) -> Result<&'a Dict, StateDictError> {
    value.as_dict().ok_or_else(|| StateDictError::Kind { name: name.to_owned(), expected: "a dict" })
}

fn refuse_extra(dict: &Dict, name: &'static str, known: impl Fn(&str) -> bool) -> Result<(), StateDictError> {
    match dict.iter().find(|(key, _)| !key.as_str().is_some_and(&known)) {
        None => Ok(()),
        Some((key, _)) => {
            let extra = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
            Err(StateDictError::Extra { dict: name, name: extra })
        }
    }
}

fn read(
    value: Option<&Value>,
    dict: &'static str,
    tensor: &NamedTensor,
    name: &str,
    buffer: &mut [f32],
) -> Result<(), StateDictError> {
    read_values(value, dict, &tensor.shape, name, &mut buffer[tensor.offset..tensor.offset + tensor.len()])
}

fn read_values(
    value: Option<&Value>,
    dict: &'static str,
    shape: &[usize],
    name: &str,
    out: &mut [f32],
) -> Result<(), StateDictError> {
    let value = value.ok_or_else(|| StateDictError::Missing { dict, name: name.to_owned() })?;
    let found = value
        .as_tensor()
        .filter(|tensor| tensor.dtype() == Dtype::F32)
        .ok_or_else(|| StateDictError::Kind { name: name.to_owned(), expected: "a float32 tensor" })?;
    if found.shape() != shape {
        return Err(StateDictError::Shape {
            name: name.to_owned(),
            expected: shape.to_vec(),
            found: found.shape().to_vec(),
        });
    }
    found.read_into(out).map_err(|source| StateDictError::Read { name: name.to_owned(), source })
}
