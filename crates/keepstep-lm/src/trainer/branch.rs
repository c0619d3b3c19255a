//! Creates a new run from a checkpoint of another run, with changed config keys.

use super::error::TrainError;
use super::groups;
use super::observer::Silent;
use super::run_spec::{self, RunSpec};
use crate::config::{Config, StoredConfig, TokenizerSpec};
use keepstep::Checkpoint;
use keepstep::branch::BranchError;
use keepstep::identity::{CORPUS_FINGERPRINT, TOKENIZER, differences};
use keepstep::position::{Length, Plan, Position};
use keepstep_model::train::state_dict::StateDictError;
use keepstep_model::train::train_state::TrainState;
use keepstep_text::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};

/// Writes the first checkpoint of the new run into `folder`. Keys that are not in `changed` keep the checkpoint's
/// values.
///
/// # Errors
/// Fails if a branch cannot change a key, if the folder is in use, or if the checkpoint cannot be read.
pub fn branch(path: &Path, changed: &[(String, String)], folder: &Path) -> Result<PathBuf, TrainError> {
    let unusable = |source| TrainError::Checkpoint { path: path.to_path_buf(), source };
    let parent = keepstep::store::load(path).map_err(unusable)?;
    let parent_stored = StoredConfig::from_checkpoint(&parent);
    let old = parent_stored.to_config(&folder.display().to_string())?;
    let mut table = old.to_table();
    for (key, value) in changed {
        crate::config::set(&mut table, key, value)?;
    }
    let num_tokens =
        Tokenizer::from_json(parent.identity.input(TOKENIZER).unwrap_or_default(), "the checkpoint")?
            .vocab_size();
    let new = Config::from_table(table)?.without_default_rows(num_tokens);
    let mut identity = parent.identity.clone();
    let mut stored = StoredConfig::new(&new);
    if let Some(hash) = parent_stored.init_from() {
        stored.set_init_from(hash);
    }
    identity.seed = new.seed;
    for difference in differences(&StoredConfig::new(&old).into_dict(), &StoredConfig::new(&new).into_dict())
    {
        if let Some(why) = branch_keeps(&difference.key) {
            return Err(TrainError::Fixed { key: difference.key, why });
        }
    }
    let corpus = other_corpus(&new, (path, &parent), changed)?;
    if let Some((fingerprint, _)) = &corpus
        && Some(fingerprint.as_str()) != identity.input(CORPUS_FINGERPRINT)
    {
        if parent.position.step != parent.plan.steps_per_epoch {
            let source = BranchError::WithinEpoch { position: parent.position };
            return Err(TrainError::Branch { path: path.to_path_buf(), source });
        }
        identity = identity.with_input(CORPUS_FINGERPRINT, fingerprint.as_str());
    }
    let plan = plan(&new, &old, &parent, changed, corpus.map(|(_, steps)| steps))?;
    let layout = new.model_config(num_tokens)?.layout();
    let mut weights = TrainState::zeros(layout);
    let state = |source: StateDictError| TrainError::State { path: path.to_path_buf(), source };
    let saved =
        groups::stored_or_configured(Some(&parent_stored), &old.optimizer, &weights.layout).map_err(state)?;
    weights.restore(&parent, &saved).map_err(state)?;
    let groups = groups::changed(saved, &old.optimizer, &new.optimizer);
    groups::keep(&groups, &new.optimizer, &weights.layout, &mut stored);
    identity.config = stored.into_dict();
    let mut parent = parent;
    let schedule = run_spec::schedule(&new, &plan);
    parent.state = weights.state(&groups, &schedule, parent.position.global_step);
    keepstep::branch::branch(parent, identity, plan, folder)
        .map_err(|source| TrainError::Branch { path: path.to_path_buf(), source })
}

/// Returns why a branch cannot change a key, or `None` if it can.
pub fn branch_keeps(key: &str) -> Option<&'static str> {
    match key {
        "model.dropout" | "model.layer_norm_epsilon" => None,
        key if key.starts_with("model.") => Some("the weights would have other shapes; begin a new run"),
        "data.tokenizer" => Some("the weights belong to the old tokens; begin a new run"),
        "data.validation_fraction" => Some("text that was trained on would be held out; begin a new run"),
        "init_from" => Some("the run has begun with its weights; begin a new run"),
        _ => None,
    }
}

/// Returns the fingerprint of the corpus in the changed config, and its steps per epoch.
fn other_corpus(
    new: &Config,
    (path, parent): (&Path, &Checkpoint),
    changed: &[(String, String)],
) -> Result<Option<(String, u64)>, TrainError> {
    if !changed.iter().any(|(name, _)| name == "data.paths" || name == "data.cargo_packages") {
        return Ok(None);
    }
    // The precision affects no size, so any processor can compute the sizes.
    let precision = StoredConfig::from_checkpoint(parent).precision().into();
    let mut counted = Config { precision, emulate_bf16: true, init_from: None, ..new.clone() };
    if let TokenizerSpec::File(file) = &mut counted.data.tokenizer {
        *file = path.display().to_string();
    }
    let spec = RunSpec::find(&counted, Some((path, parent)), &mut Silent, &|| false)?;
    Ok(Some((spec.corpus_sizes.fingerprint, spec.sizes.steps_per_epoch)))
}

/// Computes the sizes of the new run from the old ones and the changed keys.
fn plan(
    new: &Config,
    old: &Config,
    parent: &Checkpoint,
    changed: &[(String, String)],
    steps_of_corpus: Option<u64>,
) -> Result<Plan, TrainError> {
    let is_changed = |key: &str| changed.iter().any(|(name, _)| name == key);
    let steps_per_epoch = if let Some(steps) = steps_of_corpus {
        steps
    } else if new.batch_size == old.batch_size {
        parent.plan.steps_per_epoch
    } else {
        return Err(TrainError::Fixed {
            key: "batch_size".to_owned(),
            why: "the corpus is needed to count the steps of an epoch: give data.paths (or data.cargo_packages) as in the config",
        });
    };
    let same_sizes = steps_per_epoch == parent.plan.steps_per_epoch
        && new.gradient_accumulation_steps == parent.plan.gradient_accumulation_steps;
    let end = Position { step: steps_per_epoch, ..parent.position };
    let ends_epoch = parent.position.step == parent.plan.steps_per_epoch;
    let origin = match (same_sizes, ends_epoch) {
        (true, _) => parent.origin,
        (false, true) => end,
        (false, false) => parent.position,
    };
    let length = Length { epochs: new.epochs, total_steps: new.total_steps };
    let mut plan = Plan::new(steps_per_epoch, new.gradient_accumulation_steps, length, origin);
    // If the length does not affect the result, the checkpoint stores it and the new run's config sets it again.
    if parent.identity.config.get("epochs").is_none() && !is_changed("epochs") && same_sizes {
        plan.total_steps = parent.plan.total_steps;
    }
    Ok(plan)
}
