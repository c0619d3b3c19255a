//! Reads the moments and groups of an optimizer's state dict into keepstep's layout.

use crate::hub::HubError;
use crate::hub::names::{self, Linear};
use crate::hub::numbers;
use crate::hub::numbers::{count, kind};
use crate::import::adamw::{self, Group};
use crate::import::param_groups::{self, Members};
use keepstep_model::train::adamw::ParamGroup;
use keepstep_model::train::train_state::TrainState;
use keepstep_pt::{Dict, Dtype, Tensor, Value};

/// The contents of an optimizer's state dict, except the moments.
pub(crate) struct Loaded {
    /// The groups with their tensors. Each rate is the one that a schedule's factor multiplies, if the file has it.
    pub(crate) groups: Vec<ParamGroup>,
    /// The rate of each group when the file was saved.
    pub(crate) rates: Vec<f64>,
    /// Messages for the user.
    pub(crate) notes: Vec<String>,
}

/// Reads the groups. The moments and the number of updates are written to `state`.
pub(crate) fn load(state_dict: &Dict, linear: Linear, state: &mut TrainState) -> Result<Loaded, HubError> {
    let wrong = |problem: String| HubError::Unmapped { problems: vec![problem] };
    let groups = state_dict.get("param_groups").and_then(Value::as_list);
    let groups =
        groups.ok_or_else(|| wrong("`optimizer_state_dict.param_groups` is not a list".to_owned()))?;
    let moments = state_dict.get("state").and_then(Value::as_dict);
    let moments = moments.ok_or_else(|| wrong("`optimizer_state_dict.state` is not a dict".to_owned()))?;
    let entry = |id: i64| moments.get_key(&Value::Int(id)).and_then(Value::as_dict);
    let groups = groups.iter().enumerate().map(|(index, group)| Group::read(index, group));
    let groups: Vec<Group> = groups.collect::<Result<_, _>>().map_err(wrong)?;
    for &id in groups.iter().flat_map(|group| &group.params) {
        entry(id).map_or(Ok(()), |entry| adamw::check_state(id, entry)).map_err(wrong)?;
    }
    let count: usize = groups.iter().map(|group| group.params.len()).sum();
    let expected = state.layout.tensors().len();
    if count != expected {
        return Err(wrong(format!(
            "the optimizer has {count} tensors in {} groups, and the model {expected}",
            groups.len()
        )));
    }
    let members = groups.iter().map(|group| {
        let shape = |&id: &i64| match entry(id) {
            None => Ok(None),
            Some(entry) => moment(entry, id, "exp_avg").map(|tensor| Some(tensor.shape().to_vec())),
        };
        let shapes = group.params.iter().map(shape).collect::<Result<_, String>>()?;
        Ok(Members { names: group.names.clone(), shapes, weight_decay: group.settings.weight_decay })
    });
    let members: Vec<Members> = members.collect::<Result<_, String>>().map_err(wrong)?;
    let assigned = param_groups::assign(&state.layout, linear, &members).map_err(wrong)?;

    let mut num_updates = None;
    for (group, tensors) in groups.iter().zip(&assigned.tensors) {
        for (&id, &index) in group.params.iter().zip(tensors) {
            let made = match entry(id) {
                None => 0,
                Some(entry) => load_moments(entry, id, index, linear, state)?,
            };
            if *num_updates.get_or_insert(made) != made {
                return Err(wrong(format!(
                    "tensors of the optimizer have made different numbers of updates ({made} and {})",
                    num_updates.unwrap_or_default()
                )));
            }
        }
    }
    state.num_updates = num_updates.unwrap_or(0);
    let mut notes: Vec<String> = assigned.assumed.into_iter().collect();
    if groups.iter().any(|group| group.may_be_adam) {
        notes.push(
            "The optimizer's file is of an old PyTorch, which does not say whether the weight decay is AdamW's or \
             Adam's: taken as AdamW's"
                .to_owned(),
        );
    }
    let rates = groups.iter().map(|group| group.rate).collect();
    let groups = groups.into_iter().zip(assigned.tensors);
    let groups = groups.map(|(group, tensors)| ParamGroup { tensors, ..group.settings }).collect();
    Ok(Loaded { groups, rates, notes })
}

/// Fills the two moments of tensor `index`, and returns its number of updates.
fn load_moments(
    entry: &Dict,
    id: i64,
    index: usize,
    linear: Linear,
    state: &mut TrainState,
) -> Result<u64, HubError> {
    let wrong = |problem: String| HubError::Unmapped { problems: vec![problem] };
    let tensor = state.layout.tensors()[index].clone();
    let range = tensor.offset..tensor.offset + tensor.len();
    let wanted = names::shape(&tensor, linear);
    for (name, buffer) in [("exp_avg", &mut state.exp_avg), ("exp_avg_sq", &mut state.exp_avg_sq)] {
        let found = moment(entry, id, name).map_err(wrong)?;
        if found.shape() != wanted || found.dtype() != Dtype::F32 {
            return Err(wrong(format!(
                "`optimizer_state_dict.state[{id}].{name}` is {} {:?}, and `{}` needs float32 {wanted:?}",
                found.dtype(),
                found.shape(),
                tensor.name,
            )));
        }
        let values = found.to_vec::<f32>()?;
        names::place(&mut buffer.get_mut()[range.clone()], &values, &tensor, linear);
    }
    let step = entry.get("step").unwrap_or(&Value::None);
    let made = count(step).and_then(|step| u64::try_from(step).ok());
    made.ok_or_else(|| {
        wrong(format!("`optimizer_state_dict.state[{id}].step` is {}, not a count", kind(step)))
    })
}

fn moment<'a>(entry: &'a Dict, id: i64, name: &str) -> Result<&'a Tensor, String> {
    let found = entry.get(name).and_then(Value::as_tensor);
    found.ok_or_else(|| format!("`optimizer_state_dict.state[{id}].{name}` is not a tensor"))
}

/// Returns the rate that the scheduler in a file would use next.
pub(crate) fn next_rate(scheduler: &Dict) -> Option<f64> {
    numbers::number(scheduler.get("_last_lr")?.as_list()?.first()?)
}
