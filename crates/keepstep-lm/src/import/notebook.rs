//! Imports a notebook's checkpoint as a run that continues where the notebook stopped.

use crate::config::Config;
use crate::hub::HubError;
use crate::hub::names;
use crate::hub::numbers::{count, kind, optional_number};
use crate::hub::tensors::from_dict;
use crate::import::nanogpt::{self, is_nanogpt};
use crate::import::position::{Stated, StepConvention, interpret};
use crate::import::{optimizer, rates, stated};
use crate::trainer::run_spec::{self, RunSpec};
use crate::trainer::{Observer, TrainError, groups};
use keepstep::branch;
use keepstep::checkpoint::{Best, Checkpoint};
use keepstep::position::Plan;
use keepstep_model::train::adamw::ParamGroup;
use keepstep_model::train::schedule::Schedule;
use keepstep_model::train::train_state::TrainState;
use keepstep_pt::{Dict, File};
use std::path::{Path, PathBuf};

/// Reports whether a file is a checkpoint of a PyTorch training loop other than keepstep.
pub fn is_notebook_checkpoint(path: &Path) -> bool {
    let is_notebook = |root: &Dict| {
        let has = |key: &str| root.get(key).is_some();
        !has("keepstep") && (has("model_state_dict") || has("model"))
    };
    path.is_file() && File::open(path).is_ok_and(|file| file.value().as_dict().is_some_and(is_notebook))
}

/// Imports the file as a run in `folder`, with the config's corpus and settings. Returns the checkpoint from which
/// `train` continues. Tokenizing ends early once `stop` is set.
///
/// # Errors
/// Fails if something in the file has no counterpart, and names each problem with what was found and what was expected.
/// Nothing is written then.
pub fn import(
    path: &Path,
    config: &Config,
    folder: &Path,
    convention: StepConvention,
    observer: &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<PathBuf, TrainError> {
    let wrong = |source: HubError| TrainError::Hub { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(|error| wrong(error.into()))?;
    file.verify().map_err(|error| wrong(error.into()))?;
    let root = file.value().as_dict().ok_or_else(|| wrong(HubError::Missing { key: "model_state_dict" }))?;
    let part = |names: [&'static str; 2]| {
        let found = names.iter().find_map(|name| root.get(name)?.as_dict());
        found.ok_or_else(|| wrong(HubError::Missing { key: names[0] }))
    };
    let (model_dict, optimizer_dict) =
        (part(["model_state_dict", "model"])?, part(["optimizer_state_dict", "optimizer"])?);
    let int = |key: &'static str| {
        let value = root.get(key).ok_or_else(|| wrong(HubError::Missing { key }))?;
        count(value).ok_or_else(|| wrong(unmapped(format!("`{key}` is {}, not a whole number", kind(value)))))
    };
    let stated = if is_nanogpt(root) {
        let iter_num = int("iter_num")?;
        let iter_num = u64::try_from(iter_num)
            .map_err(|_| wrong(unmapped(format!("`iter_num` is {iter_num}, not a count"))))?;
        Counted::Updates(iter_num)
    } else {
        Counted::Steps(Stated { epoch: int("epoch")?, step: int("step")?, global_step: int("global_step")? })
    };
    let mut notes = stated::check(root, config).map_err(|problem| wrong(unmapped(problem)))?;

    // The notebook provides the weights, so `init_from` is ignored.
    let config = &Config { init_from: None, ..config.clone() };
    let mut spec = RunSpec::find(config, None, observer, stop)?;
    let sizes = spec.sizes;
    let accumulation = sizes.gradient_accumulation_steps;
    let position = match stated {
        Counted::Updates(iter_num) => nanogpt::position(iter_num, sizes.steps_per_epoch, accumulation),
        Counted::Steps(stated) => {
            interpret(stated, convention, sizes.steps_per_epoch, accumulation).map_err(wrong)?
        }
    };
    if is_nanogpt(root) {
        notes.push(nanogpt::assumed(position));
    }
    let plan = Plan::new(sizes.steps_per_epoch, accumulation, sizes.length, position);

    let layout = spec.model.layout();
    let mut state = TrainState::zeros(layout);
    let linear = names::load(&from_dict(model_dict), &state.layout, state.parameters.get_mut(), false)
        .map_err(wrong)?;
    let optimizer::Loaded { groups: mut param_groups, rates, notes: more } =
        optimizer::load(optimizer_dict, linear, &mut state).map_err(wrong)?;
    notes.extend(more);
    rates::rescale(&mut param_groups, config.optimizer.learning_rate);

    groups::keep(&param_groups, &config.optimizer, &state.layout, &mut spec.stored);
    let schedule = run_spec::schedule(config, &plan);
    let scheduler = ["scheduler_state_dict", "scheduler"].iter().find_map(|key| root.get(key)?.as_dict());
    notes.extend(differences(config, &param_groups));
    notes.extend(rate_note(&param_groups, &rates, &schedule, position.global_step, scheduler));
    let number = |key: &str| optional_number(root, key).map_err(wrong);
    let best = number("best_val_loss")?.map(|value| Best::new(position, value));
    let num_updates = state.num_updates;
    let state = state.state(&param_groups, &schedule, position.global_step);
    let mut checkpoint = Checkpoint::new(spec.identity(), plan, position, state);
    (checkpoint.origin, checkpoint.num_updates) = (position, num_updates);
    (checkpoint.metrics.val_loss, checkpoint.metrics.best) = (number("val_loss")?, best);
    run_spec::tokenizer_file(folder, &spec.tokenizer)?;
    let made = branch::begin(&checkpoint, folder)
        .map_err(|source| TrainError::Branch { path: path.to_path_buf(), source })?;
    run_spec::publish_tokenizer(folder, &spec.tokenizer)?;
    notes.iter().for_each(|note| observer.note(note));
    Ok(made)
}

/// How a file counts its progress.
enum Counted {
    /// By epoch and step.
    Steps(Stated),
    /// By updates only.
    Updates(u64),
}

fn unmapped(problem: String) -> HubError {
    HubError::Unmapped { problems: vec![problem] }
}

/// Describes hyperparameters of the file that differ from the config and are kept.
fn differences(config: &Config, groups: &[ParamGroup]) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |key: &str, theirs: String, ours: String| {
        if theirs != ours {
            notes.push(format!(
                "The optimizer's {key} in the file is {theirs}, and optimizer.{key} is {ours} in the config: the run goes \
                 on with {theirs}"
            ));
        }
    };
    let settings = &config.optimizer;
    let decay = groups.iter().map(|group| group.weight_decay).fold(0.0, f64::max);
    note("weight_decay", format!("{decay}"), format!("{}", settings.weight_decay));
    if let Some(first) = groups.first() {
        note("betas", format!("{:?}", first.betas), format!("{:?}", settings.betas));
        note("eps", format!("{:e}", first.eps), format!("{:e}", settings.eps));
    }
    notes
}

/// Describes a jump of the learning rate. It compares the file's last rate, or the next rate of its scheduler, with the
/// rate that the config gives.
fn rate_note(
    groups: &[ParamGroup],
    rates: &[f64],
    schedule: &Schedule,
    global_step: u64,
    scheduler: Option<&Dict>,
) -> Option<String> {
    let group = groups.first()?;
    let at = |step: u64| group.learning_rate * schedule.factor(step);
    let next = at(global_step);
    // A loop that sets the rate itself stores the rate of its last update.
    let (theirs, ours, whose) = match scheduler.and_then(optimizer::next_rate) {
        Some(theirs) => (theirs, next, "The scheduler in the file would continue"),
        None => (
            *rates.first()?,
            at(global_step.saturating_sub(1)),
            "The optimizer in the file had made its last update",
        ),
    };
    ((theirs - ours).abs() > 1e-9 * theirs.abs()).then(|| {
        format!(
            "{whose} with a learning rate of {theirs:e}, and the run continues with {next:e}: optimizer.learning_rate, \
             [schedule] and epochs (or total_steps) of the config decide, and can still be changed by importing again"
        )
    })
}
