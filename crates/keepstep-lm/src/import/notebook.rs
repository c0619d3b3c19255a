//! A notebook's checkpoint becomes a run that goes on where the notebook stopped.

use crate::config::Config;
use crate::hub::ForeignError;
use crate::hub::names;
use crate::hub::tensors::of_dict;
use crate::import::optimizer;
use crate::import::position::{Counting, Stated, interpret};
use crate::trainer::{Observer, TrainError, groups, precision, prepare};
use keepstep::branch;
use keepstep::checkpoint::{Best, Checkpoint, Metrics};
use keepstep::position::Plan;
use keepstep_model::gpt2::layout::Layout;
use keepstep_model::train::train_state::TrainState;
use keepstep_numerics::bf16::Support;
use keepstep_pt::{Dict, Dtype, File, Value};
use std::path::{Path, PathBuf};

/// Whether a file is a checkpoint that a PyTorch loop saved, and not keepstep's own.
pub fn is_foreign_checkpoint(path: &Path) -> bool {
    let is_foreign = |root: &Dict| {
        let has = |key: &str| root.get(key).is_some();
        !has("keepstep") && (has("model_state_dict") || has("model"))
    };
    path.is_file() && File::open(path).is_ok_and(|file| file.value().as_dict().is_some_and(is_foreign))
}

/// Makes a run of the file in `folder`, with the config's corpus and settings. Gives the checkpoint that `train` goes on
/// from. `stop` is asked while text is tokenized.
///
/// # Errors
/// Whatever cannot be mapped, each with what it is and what it should be; nothing is written then.
pub fn import(
    path: &Path,
    config: &Config,
    folder: &Path,
    counting: Counting,
    observer: &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<PathBuf, TrainError> {
    let foreign = |source: ForeignError| TrainError::Foreign { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(|error| foreign(error.into()))?;
    file.verify().map_err(|error| foreign(error.into()))?;
    let root =
        file.value().as_dict().ok_or_else(|| foreign(ForeignError::Missing { key: "model_state_dict" }))?;
    let part = |names: [&'static str; 2]| {
        let found = names.iter().find_map(|name| root.get(name)?.as_dict());
        found.ok_or_else(|| foreign(ForeignError::Missing { key: names[0] }))
    };
    let (model_dict, optimizer_dict) =
        (part(["model_state_dict", "model"])?, part(["optimizer_state_dict", "optimizer"])?);
    let int = |key: &'static str| {
        root.get(key).and_then(count).ok_or_else(|| foreign(ForeignError::Missing { key }))
    };
    let stated = Stated { epoch: int("epoch")?, step: int("step")?, global_step: int("global_step")? };

    let files = prepare::files(config, observer, stop)?;
    let tokenizer = prepare::tokenizer(config, &files, None, observer, stop)?;
    let corpus = prepare::corpus(config, &files, &tokenizer, observer, stop)?;
    let sizes = prepare::sizes(config, corpus.num_train_windows());
    let accumulation = sizes.gradient_accumulation_steps;
    let position = interpret(stated, counting, sizes.steps_per_epoch, accumulation).map_err(foreign)?;
    let plan = Plan::new(sizes.steps_per_epoch, accumulation, sizes.length, position);

    let layout = Layout::new(&config.model_config(tokenizer.vocab_size()));
    let mut state = TrainState::zeros(layout);
    let linear = names::load(&of_dict(model_dict), &state.layout, state.parameters.get_mut(), false)
        .map_err(foreign)?;
    let param_groups = optimizer::load(optimizer_dict, linear, &mut state).map_err(foreign)?;

    let precision = precision::of_run(config, None, Support::of_this_processor())?;
    let mut identity = prepare::identity(config, precision, corpus.fingerprint(), &tokenizer, None, None);
    groups::keep(&param_groups, &config.optimizer, &state.layout, &mut identity.config);
    let schedule = prepare::schedule(config, &plan);
    let rates = |dict: &Dict| dict.get("_last_lr")?.as_list()?.first()?.as_float();
    let theirs =
        ["scheduler_state_dict", "scheduler"].iter().find_map(|key| rates(root.get(key)?.as_dict()?));
    let next =
        param_groups.first().map_or(0.0, |group| group.learning_rate) * schedule.factor(position.global_step);
    if let Some(theirs) = theirs.filter(|theirs| (theirs - next).abs() > 1e-9 * theirs.abs()) {
        observer.note(&format!(
            "The notebook's scheduler would go on with a learning rate of {theirs:e}, and the config's schedule goes on \
             with {next:e}: set optimizer.learning_rate, [schedule] and epochs (or total_steps) as in the notebook"
        ));
    }
    let float = |key: &str| root.get(key).and_then(Value::as_float).filter(|value| value.is_finite());
    let best = float("best_val_loss").map(|val_loss| Best { position, val_loss });
    let checkpoint = Checkpoint {
        position,
        state: state.state(&param_groups, &schedule, position.global_step),
        metrics: Metrics { val_loss: float("val_loss"), best, ..Metrics::default() },
        identity,
        plan,
        origin: position,
        num_updates: state.num_updates,
        pending: false,
        lineage: Vec::new(),
    };
    let made = branch::begin(&checkpoint, folder)
        .map_err(|source| TrainError::Branch { path: path.to_path_buf(), source })?;
    prepare::publish_tokenizer(folder, &tokenizer)?;
    Ok(made)
}

/// An int, or a scalar tensor of one.
fn count(value: &Value) -> Option<i64> {
    match value {
        Value::Int(value) => Some(*value),
        Value::Tensor(tensor) if tensor.dtype() == Dtype::I64 && tensor.num_elements() == 1 => {
            tensor.to_vec::<i64>().ok().map(|values| values[0])
        }
        _ => None,
    }
}
