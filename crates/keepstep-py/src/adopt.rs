//! A checkpoint that a loop saved before keepstep becomes the first one of a run.

use crate::errors::{MismatchError, chain, run_error, usage};
use crate::run::identity;
use keepstep::position::{Length, Plan, Position};
use keepstep::run::{Policy, RunBuilder};
use keepstep::store::load;
use keepstep::{Checkpoint, State, branch};
use keepstep_pt::{Dict, File, Value};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::{Path, PathBuf};

/// Other names that loops give to state dicts.
const ALIASES: [(&str, &[&str]); 3] = [
    ("model", &["model", "state_dict", "model_state", "net"]),
    ("optimizer", &["optimizer", "optim", "optimizer_state", "opt"]),
    ("scheduler", &["scheduler", "lr_scheduler", "lr_scheduler_state_dict", "scheduler_state"]),
];

/// Whether keepstep wrote the file. A file that cannot be read counts as keepstep's, so that opening it gives the reason.
#[pyfunction]
pub(crate) fn is_checkpoint(path: PathBuf) -> bool {
    match File::open(&path) {
        Ok(file) => file.value().as_dict().is_none_or(|root| root.get("keepstep").is_some()),
        Err(_) => true,
    }
}

fn plan(steps_per_epoch: u64, gradient_accumulation_steps: u64, epochs: u64, origin: Position) -> Plan {
    Plan::new(steps_per_epoch, gradient_accumulation_steps, Length { epochs, total_steps: None }, origin)
}

/// Makes the first checkpoint of a new run in `folder` from a checkpoint of another run.
#[pyfunction(name = "branch")]
#[pyo3(signature = (path, folder, seed, config, inputs, convert, *, steps_per_epoch, gradient_accumulation_steps, epochs))]
#[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
pub(crate) fn branch_from(
    path: PathBuf,
    folder: PathBuf,
    seed: u64,
    config: &Bound<'_, PyDict>,
    inputs: Vec<(String, String)>,
    convert: Bound<'_, PyAny>,
    steps_per_epoch: u64,
    gradient_accumulation_steps: u64,
    epochs: u64,
) -> PyResult<PathBuf> {
    let py = convert.py();
    let identity = identity(seed, config, inputs, convert)?;
    py.detach(|| {
        let parent = newest(&path)?;
        let plan = plan(steps_per_epoch, gradient_accumulation_steps, epochs, parent.origin);
        branch::branch(parent, identity, plan, &folder)
            .map_err(|error| usage(format!("branch_from: {}: {}", path.display(), chain(&error))))
    })
}

/// A checkpoint, or the newest one of a run's folder.
fn newest(path: &Path) -> PyResult<Checkpoint> {
    if !path.is_dir() {
        return load(path).map_err(|error| usage(format!("{}: {}", path.display(), chain(&error))));
    }
    let opening = RunBuilder::inspect(path, Policy::default()).map_err(run_error)?;
    opening.checkpoint().cloned().ok_or_else(|| usage(format!("{}: there is no checkpoint", path.display())))
}

/// Makes the first checkpoint of a new run in `folder` from a file of a loop without keepstep. Gives notes for people.
#[pyfunction]
#[pyo3(signature = (path, folder, seed, config, inputs, convert, *, names, steps_per_epoch, gradient_accumulation_steps,
                    epochs))]
#[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
pub(crate) fn adopt(
    path: PathBuf,
    folder: PathBuf,
    seed: u64,
    config: &Bound<'_, PyDict>,
    inputs: Vec<(String, String)>,
    convert: Bound<'_, PyAny>,
    names: Vec<String>,
    steps_per_epoch: u64,
    gradient_accumulation_steps: u64,
    epochs: u64,
) -> PyResult<Vec<String>> {
    let py = convert.py();
    let identity = identity(seed, config, inputs, convert)?;
    let file = File::open(&path).map_err(|error| usage(error.to_string()))?;
    let refuse = |text: String| MismatchError::new_err(format!("{}: {text}", path.display()));
    let root = file.value().as_dict().ok_or_else(|| refuse("it holds no dict".to_owned()))?;
    let mut state = State::default();
    for name in &names {
        let value = part(root, name).ok_or_else(|| {
            let keys: Vec<String> =
                root.iter().filter_map(|(key, _)| key.as_str().map(|key| format!("`{key}`"))).collect();
            refuse(format!(
                "it has no `{name}_state_dict` for what is tracked as `{name}`; its keys are {}",
                keys.join(", ")
            ))
        })?;
        value.check_storable().map_err(|error| refuse(format!("`{name}_state_dict`: {error}")))?;
        state.insert(name.as_str(), value.clone()).map_err(|error| usage(error.to_string()))?;
    }
    let sizes = plan(steps_per_epoch, gradient_accumulation_steps, epochs, Position::START);
    let (position, convention) = position(root, &sizes).map_err(refuse)?;
    let plan = plan(steps_per_epoch, gradient_accumulation_steps, epochs, position);
    let mut checkpoint = Checkpoint::new(identity, plan, position, state);
    checkpoint.origin = position;
    checkpoint.metrics.val_loss = root.get("val_loss").and_then(Value::as_float);
    let made = py.detach(|| branch::begin(&checkpoint, &folder));
    made.map_err(|error| usage(chain(&error)))?;
    Ok(vec![
        format!("Adopted {}, which was saved before keepstep, at {position}{convention}", path.display()),
        "The order of the samples before it is not known: some samples of this epoch may be seen twice or never".to_owned(),
    ])
}

fn part<'a>(root: &'a Dict, name: &str) -> Option<&'a Value> {
    let aliases = ALIASES.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, aliases)| aliases);
    root.get(&format!("{name}_state_dict")).or_else(|| aliases.iter().find_map(|alias| root.get(alias)))
}

/// Where the loop was. Loops store the micro-batches that are done, or the index of the last one, which is one less.
fn position(root: &Dict, plan: &Plan) -> Result<(Position, &'static str), String> {
    let number = |key: &str| root.get(key).and_then(Value::as_u64);
    let epoch = number("epoch").ok_or("it does not say its `epoch`")?.max(1);
    let global_step = number("global_step");
    let Some(step) = number("step") else {
        let global_step = global_step.ok_or("it says neither its `step` nor its `global_step`")?;
        let position = Position { epoch, step: plan.steps_per_epoch, global_step };
        return Ok((position, ", taken for the end of its epoch because it does not say its `step`"));
    };
    let with = |step: u64| {
        let updates =
            (epoch - 1) * plan.updates_per_epoch() + step.div_ceil(plan.gradient_accumulation_steps);
        Position { epoch, step, global_step: global_step.unwrap_or(updates) }
    };
    let candidates =
        [(with(step), ""), (with(step + 1), " (its `step` is the index of the last micro-batch)")];
    let holds = |at: &Position| plan.check(Position::START, *at).is_ok();
    let fits = |at: &Position| at.step <= plan.steps_per_epoch && plan.is_boundary(at.step);
    let found =
        candidates.iter().find(|(at, _)| holds(at)).or_else(|| candidates.iter().find(|(at, _)| fits(at)));
    found.copied().ok_or_else(|| {
        format!(
            "its step {step} is not the end of an update: epochs have {} steps, and gradient_accumulation_steps is {}",
            plan.steps_per_epoch, plan.gradient_accumulation_steps
        )
    })
}
