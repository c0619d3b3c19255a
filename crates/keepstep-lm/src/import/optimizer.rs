//! Others' AdamW: groups with their own hyperparameters, matched to the model by order and shape.

use crate::hub::ForeignError;
use crate::hub::names::{self, Linear};
use keepstep_model::gpt2::layout::Layout;
use keepstep_model::train::adamw::ParamGroup;
use keepstep_model::train::train_state::TrainState;
use keepstep_pt::{Dict, Dtype, Tensor, Value};

/// The groups and the number of updates; the moments go to `weights`.
pub(crate) fn load(
    state_dict: &Dict,
    linear: Linear,
    weights: &mut TrainState,
) -> Result<Vec<ParamGroup>, ForeignError> {
    let wrong = |problem: String| ForeignError::Unmapped { problems: vec![problem] };
    let groups = state_dict.get("param_groups").and_then(Value::as_list);
    let groups =
        groups.ok_or_else(|| wrong("`optimizer_state_dict.param_groups` is not a list".to_owned()))?;
    let state = state_dict.get("state").and_then(Value::as_dict);
    let state = state.ok_or_else(|| wrong("`optimizer_state_dict.state` is not a dict".to_owned()))?;
    let groups: Vec<Foreign> = groups
        .iter()
        .enumerate()
        .map(|(index, group)| Foreign::of(index, group))
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    let count: usize = groups.iter().map(|group| group.params.len()).sum();
    let expected = weights.layout.tensors().len();
    if count != expected {
        return Err(wrong(format!(
            "the optimizer has {count} tensors in {} groups, and the model {expected}",
            groups.len()
        )));
    }
    let entry = |id: i64| state.get_key(&Value::Int(id)).and_then(Value::as_dict);
    let shapes = |group: &Foreign| -> Result<Vec<Option<Vec<usize>>>, String> {
        group
            .params
            .iter()
            .map(|&id| match entry(id) {
                None => Ok(None),
                Some(entry) => moment(entry, id, "exp_avg").map(|tensor| Some(tensor.shape().to_vec())),
            })
            .collect()
    };
    let shapes: Vec<_> = groups.iter().map(shapes).collect::<Result<_, _>>().map_err(wrong)?;
    let tensors = assign(&weights.layout, linear, &shapes).map_err(wrong)?;

    let mut num_updates = None;
    for (group, tensors) in groups.iter().zip(&tensors) {
        for (&id, &index) in group.params.iter().zip(tensors) {
            let made = match entry(id) {
                None => 0,
                Some(entry) => {
                    let tensor = weights.layout.tensors()[index].clone();
                    let range = tensor.offset..tensor.offset + tensor.len();
                    for (name, buffer) in
                        [("exp_avg", &mut weights.exp_avg), ("exp_avg_sq", &mut weights.exp_avg_sq)]
                    {
                        let found = moment(entry, id, name).map_err(wrong)?;
                        if found.shape() != names::shape(&tensor, linear) || found.dtype() != Dtype::F32 {
                            return Err(wrong(format!(
                                "`optimizer_state_dict.state[{id}].{name}` is {} {:?}, and `{}` needs float32 {:?}",
                                found.dtype(),
                                found.shape(),
                                tensor.name,
                                names::shape(&tensor, linear)
                            )));
                        }
                        let values = found.to_vec::<f32>()?;
                        names::place(&mut buffer.get_mut()[range.clone()], &values, &tensor, linear);
                    }
                    step(entry).ok_or_else(|| {
                        wrong(format!("`optimizer_state_dict.state[{id}].step` is not a count"))
                    })?
                }
            };
            if *num_updates.get_or_insert(made) != made {
                return Err(wrong(format!(
                    "tensors of the optimizer have made different numbers of updates ({made} and {num_updates:?})"
                )));
            }
        }
    }
    weights.num_updates = num_updates.unwrap_or(0);
    Ok(groups
        .into_iter()
        .zip(tensors)
        .map(|(group, tensors)| ParamGroup { tensors, ..group.settings })
        .collect())
}

/// A group as the file has it.
struct Foreign {
    settings: ParamGroup,
    params: Vec<i64>,
}

impl Foreign {
    fn of(index: usize, value: &Value) -> Result<Foreign, String> {
        let place = format!("optimizer_state_dict.param_groups[{index}]");
        let dict = value.as_dict().ok_or_else(|| format!("`{place}` is not a dict"))?;
        let float = |key: &str| match dict.get(key) {
            Some(Value::Float(value)) => Ok(*value),
            Some(Value::Int(value)) => Ok(*value as f64),
            Some(Value::Tensor(tensor)) if tensor.shape().is_empty() && tensor.dtype() == Dtype::F32 => {
                tensor.to_vec::<f32>().map(|values| f64::from(values[0])).map_err(|error| error.to_string())
            }
            _ => Err(format!("`{place}.{key}` is not a number")),
        };
        for key in ["amsgrad", "maximize"] {
            if dict.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(format!("`{place}.{key}` is set, which keepstep's AdamW has not"));
            }
        }
        let weight_decay = float("weight_decay")?;
        if dict.get("decoupled_weight_decay").and_then(Value::as_bool) == Some(false) && weight_decay != 0.0 {
            return Err(format!("`{place}` is Adam's, whose weight decay is not AdamW's"));
        }
        let betas = match dict.get("betas") {
            Some(Value::Tuple(betas) | Value::List(betas)) => match betas.as_slice() {
                [first, second] => first.as_float().zip(second.as_float()),
                _ => None,
            },
            _ => None,
        };
        let (first, second) = betas.ok_or_else(|| format!("`{place}.betas` is not two floats"))?;
        let params = dict.get("params").and_then(Value::as_list).unwrap_or_default();
        let params: Option<Vec<i64>> = params.iter().map(Value::as_int).collect();
        let learning_rate =
            if dict.get("initial_lr").is_some() { float("initial_lr")? } else { float("lr")? };
        Ok(Foreign {
            settings: ParamGroup {
                learning_rate,
                betas: [first, second],
                eps: float("eps")?,
                weight_decay,
                tensors: Vec::new(),
            },
            params: params.ok_or_else(|| format!("`{place}.params` is not a list of ints"))?,
        })
    }
}

fn moment<'a>(entry: &'a Dict, id: i64, name: &str) -> Result<&'a Tensor, String> {
    let found = entry.get(name).and_then(Value::as_tensor);
    found.ok_or_else(|| format!("`optimizer_state_dict.state[{id}].{name}` is not a tensor"))
}

/// The count of updates: an int in old files, a float32 scalar in newer ones.
fn step(entry: &Dict) -> Option<u64> {
    match entry.get("step")? {
        Value::Int(step) => u64::try_from(*step).ok(),
        Value::Float(step) => (*step >= 0.0 && step.fract() == 0.0).then_some(*step as u64),
        Value::Tensor(tensor) if tensor.dtype() == Dtype::F32 && tensor.num_elements() == 1 => {
            let step = f64::from(tensor.to_vec::<f32>().ok()?[0]);
            (step >= 0.0 && step.fract() == 0.0).then_some(step as u64)
        }
        Value::Tensor(tensor) if tensor.dtype() == Dtype::I64 && tensor.num_elements() == 1 => {
            u64::try_from(tensor.to_vec::<i64>().ok()?[0]).ok()
        }
        _ => None,
    }
}

/// Which tensors each group has: each tensor of the model, in order, goes to the group whose next shape is its own.
/// Without moments, shapes are not known, and the split by dimensions, the usual one, is tried.
fn assign(
    layout: &Layout,
    linear: Linear,
    shapes: &[Vec<Option<Vec<usize>>>],
) -> Result<Vec<Vec<usize>>, String> {
    let all: Vec<usize> = (0..layout.tensors().len()).collect();
    if shapes.len() == 1 {
        return Ok(vec![all]);
    }
    if shapes.iter().flatten().all(Option::is_none) {
        let (decay, rest): (Vec<usize>, Vec<usize>) =
            all.iter().partition(|&&index| layout.tensors()[index].decay);
        for split in [vec![decay.clone(), rest.clone()], vec![rest, decay]] {
            if split.iter().map(Vec::len).eq(shapes.iter().map(Vec::len)) && split[0].len() != split[1].len()
            {
                return Ok(split);
            }
        }
        return Err("the optimizer has no moments yet, so that its groups cannot be told apart".to_owned());
    }
    let mut assigned: Vec<Vec<usize>> = vec![Vec::new(); shapes.len()];
    for index in all {
        let tensor = &layout.tensors()[index];
        let wanted = names::shape(tensor, linear);
        let fits = |group: &usize| {
            shapes[*group].get(assigned[*group].len()).and_then(Option::as_ref) == Some(&wanted)
        };
        let candidates: Vec<usize> = (0..shapes.len()).filter(fits).collect();
        match candidates.as_slice() {
            [group] => assigned[*group].push(index),
            [] => {
                let next: Vec<String> = (0..shapes.len())
                    .map(|group| {
                        format!("{:?}", shapes[group].get(assigned[group].len()).and_then(Option::as_ref))
                    })
                    .collect();
                return Err(format!(
                    "`{}` is {wanted:?}, and the groups' next tensors are {}",
                    tensor.name,
                    next.join(", ")
                ));
            }
            _ => return Err(format!("`{}` {wanted:?} fits several groups", tensor.name)),
        }
    }
    Ok(assigned)
}
