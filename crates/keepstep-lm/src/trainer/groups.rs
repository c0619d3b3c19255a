//! Imported parameter groups, as a checkpoint stores them in its config.

use crate::config::{OptimizerConfig, StoredConfig};
use crate::import::rates::rescale;
use keepstep_model::layout::Layout;
use keepstep_model::train::adamw::ParamGroup;
use keepstep_model::train::state_dict::StateDictError;
use keepstep_pt::{Dict, Value};

/// Returns the stored groups, or the groups that the config describes.
pub(crate) fn stored_or_configured(
    saved: Option<&StoredConfig>,
    config: &OptimizerConfig,
    layout: &Layout,
) -> Result<Vec<ParamGroup>, StateDictError> {
    match saved.and_then(StoredConfig::param_groups) {
        Some(groups) => read(groups, layout),
        None => Ok(ParamGroup::from_config(config, layout)),
    }
}

/// Stores groups, unless the config describes the same ones.
pub(crate) fn keep(
    groups: &[ParamGroup],
    optimizer: &OptimizerConfig,
    layout: &Layout,
    stored: &mut StoredConfig,
) {
    if groups != ParamGroup::from_config(optimizer, layout) {
        stored.set_param_groups(write(groups, layout));
    }
}

/// Returns the groups with the hyperparameters that a branch changes.
pub(crate) fn changed(
    mut groups: Vec<ParamGroup>,
    old: &OptimizerConfig,
    new: &OptimizerConfig,
) -> Vec<ParamGroup> {
    if new.learning_rate != old.learning_rate {
        rescale(&mut groups, new.learning_rate);
    }
    for group in &mut groups {
        if new.weight_decay != old.weight_decay && group.weight_decay != 0.0 {
            group.weight_decay = new.weight_decay;
        }
        if new.betas != old.betas {
            group.betas = new.betas;
        }
        if new.eps != old.eps {
            group.eps = new.eps;
        }
    }
    groups
}

fn write(groups: &[ParamGroup], layout: &Layout) -> Value {
    let group = |group: &ParamGroup| {
        let name = |&index: &usize| Value::from(layout.tensors()[index].name.as_str());
        let mut dict = Dict::new();
        dict.insert("learning_rate", group.learning_rate);
        dict.insert("betas", group.betas.map(Value::Float).to_vec());
        dict.insert("eps", group.eps);
        dict.insert("weight_decay", group.weight_decay);
        dict.insert("params", group.tensors.iter().map(name).collect::<Vec<_>>());
        Value::Dict(dict)
    };
    Value::List(groups.iter().map(group).collect())
}

fn read(value: &Value, layout: &Layout) -> Result<Vec<ParamGroup>, StateDictError> {
    let wrong = || StateDictError::Kind {
        name: "config.optimizer.param_groups".to_owned(),
        expected: "a list of groups that have each tensor of the model once",
    };
    let group = |value: &Value| {
        let dict = value.as_dict()?;
        let float = |key: &str| dict.get(key)?.as_float();
        let [first, second] = dict.get("betas")?.as_list()? else { return None };
        let place = |name: &Value| {
            layout.tensors().iter().position(|tensor| Some(tensor.name.as_str()) == name.as_str())
        };
        Some(ParamGroup {
            learning_rate: float("learning_rate")?,
            betas: [first.as_float()?, second.as_float()?],
            eps: float("eps")?,
            weight_decay: float("weight_decay")?,
            tensors: dict.get("params")?.as_list()?.iter().map(place).collect::<Option<_>>()?,
        })
    };
    let groups: Option<Vec<ParamGroup>> = value.as_list().and_then(|list| list.iter().map(group).collect());
    let groups = groups.ok_or_else(wrong)?;
    let mut all: Vec<usize> = groups.iter().flat_map(|group| group.tensors.iter().copied()).collect();
    all.sort_unstable();
    if all.into_iter().eq(0..layout.tensors().len()) { Ok(groups) } else { Err(wrong()) }
}
