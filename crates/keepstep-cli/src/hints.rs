//! What people can do about an error: commands that can be pasted into a shell.

use crate::continuation;
use crate::failure::Failure;
use crate::format::quoted;
use keepstep::branch::BranchError;
use keepstep::identity::Difference;
use keepstep::name::Name;
use keepstep::remote::RemoteError;
use keepstep::run::{Notice, RunError};
use keepstep::settings::UnsetVariable;
use keepstep::store::{MissingOperation, SourceError, StoreError};
use keepstep_lm::Config;
use keepstep_lm::config::TokenizerSpec;
use keepstep_lm::hub::HubError;
use keepstep_lm::trainer::{DiskShortage, TrainError, branch_keeps};
use keepstep_text::corpus::CorpusError;
use std::path::Path;

/// How to go on without a variable of the environment.
pub(crate) fn unset_variable(unset: &UnsetVariable) -> String {
    format!("set it, or write ${{{}:-DEFAULT}}", unset.variable)
}

/// How a run gets by with less memory.
pub(crate) const LESS_MEMORY: &str =
    "lower batch_size (and raise gradient_accumulation_steps), or set recompute_activations = true";

const EMULATE: &str = "set emulate_bf16 = true, which computes the same bytes more slowly";

/// The failure that an error of training becomes, with what can be done about it.
pub(crate) fn failure(error: &TrainError, config: &Config) -> Failure {
    let failure = Failure::from(error);
    match hint(error, config) {
        Some(hint) => failure.with(&hint),
        None => failure,
    }
}

/// A sentence that follows the error's own.
fn hint(error: &TrainError, config: &Config) -> Option<String> {
    match error {
        TrainError::Run(RunError::Config { path, differences }) => {
            Some(other_config(path, differences, config))
        }
        TrainError::OtherPrecision { path, allowed, .. } => {
            let set = [("precision".to_owned(), allowed.preferred().to_string())];
            Some(format!("allow it in the config to go on, or {}", branch(path, &set)))
        }
        TrainError::Precision { .. } => Some(format!(
            "use a processor that has them, allow float32 as well (precision = [\"bf16\", \"float32\"]), or {EMULATE}"
        )),
        TrainError::PrecisionOfRun { .. } => {
            Some(format!("continue on a processor that has them, or {EMULATE}"))
        }
        TrainError::Memory { .. } | TrainError::Allocation { .. } => Some(LESS_MEMORY.to_owned()),
        TrainError::FileSizeLimit { .. } => Some("`ulimit -f unlimited` raises the limit".to_owned()),
        TrainError::OutputLink { .. } => Some("mount it, or choose another output_dir".to_owned()),
        TrainError::OtherTokenizer { .. } => {
            Some("choose another output_dir, or move the file away".to_owned())
        }
        TrainError::OtherCorpus { path, .. } => Some(other_corpus(path, config)),
        TrainError::WeightsAlone { path } => {
            let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
            let set = set_text("init_from", &folder.display().to_string());
            Some(format!(
                "to begin a new run with them, set init_from to their folder: {}{set}",
                continuation::command_without_resume()
            ))
        }
        TrainError::Run(RunError::NotFinite { last, .. }) => {
            let rate = format!("{:?}", config.optimizer.learning_rate / 2.0);
            let branch =
                last.as_ref().map(|path| branch(path, &[("optimizer.learning_rate".to_owned(), rate)]));
            let lower = "a lower learning rate usually helps";
            Some(branch.map_or(lower.to_owned(), |branch| format!("{lower}: {branch}")))
        }
        TrainError::Run(error) => run_hint(error).map(str::to_owned),
        TrainError::Corpus(error) => corpus_hint(error).map(str::to_owned),
        TrainError::Hub { source: HubError::Ambiguous { .. }, .. } => Some(
            "`keepstep import` takes --epoch-base 0|1 and --step-is count|index, which say what the file does not"
                .to_owned(),
        ),
        TrainError::Hub { source: HubError::InsideWindow { .. }, .. } => {
            Some("`keepstep import` with --round-down goes back to the last boundary".to_owned())
        }
        _ => None,
    }
}

fn corpus_hint(error: &CorpusError) -> Option<&'static str> {
    Some(match error {
        CorpusError::Inaccessible { .. } => {
            "make it readable, remove it, or skip unreadable paths with data.skip_unreadable = true"
        }
        CorpusError::Package { .. } => "run `cargo fetch` where its Cargo.lock lies",
        CorpusError::TooSmall { .. } => "use more text, a smaller model.block_size or a smaller batch_size",
        _ => return None,
    })
}

/// What people can do about a disk that is too slow for the saves.
pub(crate) const FEWER_SAVES: &str = "saving less often (save_steps) avoids it";

fn run_hint(error: &RunError) -> Option<&'static str> {
    Some(match error {
        RunError::Numerics { .. } => {
            "use the version of keepstep that began the run, or set allow_other_numerics = true to give that up"
        }
        RunError::NotEmpty { .. } => "choose another output_dir to begin a new run",
        RunError::RewindNeedsCheckpoint => "add --resume PATH, the checkpoint to go back to",
        RunError::Source(SourceError::NothingValid { .. }) => {
            "put a good copy in their place, or choose another output_dir to begin a new run"
        }
        RunError::Store(error) => return store_hint(error),
        RunError::Remote(error) => return remote_hint(error),
        _ => return None,
    })
}

/// What people can do about a remote that cannot be used.
pub(crate) fn remote_hint(error: &RemoteError) -> Option<&'static str> {
    Some(match error {
        RemoteError::OtherRun { .. } | RemoteError::NotEmpty { .. } => "choose another prefix for this run",
        RemoteError::TakenOver { .. } => {
            "wait for that session to end, or add --take-over to `keepstep push`, after which it pushes no more"
        }
        _ => return None,
    })
}

/// What people can do about a save that has failed, or a folder that cannot be used.
pub(crate) fn store_hint(error: &StoreError) -> Option<&'static str> {
    Some(match error {
        StoreError::Locked { .. } => "wait for it to end, or choose another output_dir",
        StoreError::NoRoom { .. } => {
            "make room, lower max_checkpoints, or go on in another output_dir with --resume"
        }
        StoreError::NoFiles { .. } => "remove files, or choose another output_dir",
        _ => return None,
    })
}

/// What people can do about how a run was opened.
pub(crate) fn notice_hint(notice: &Notice) -> Option<&'static str> {
    match notice {
        Notice::LaterThanSource { .. } => Some("--rewind goes back"),
        Notice::FileSystem { missing: MissingOperation::Lock { .. } } => {
            Some("make sure that no other process trains into this folder at the same time")
        }
        Notice::FileSystem { missing: MissingOperation::PromptSync { .. } } => {
            Some("train on a local disk, and copy the run with `keepstep push`")
        }
        _ => None,
    }
}

/// What people can do about a checkpoint that cannot be branched from.
pub(crate) fn branch_hint(error: &TrainError) -> Option<&'static str> {
    match error {
        TrainError::Branch { source: BranchError::Pending, .. } => {
            Some("continue its run first, or branch from another checkpoint")
        }
        _ => None,
    }
}

/// What people can do about a disk that may be too small.
pub(crate) fn disk_hint(shortage: &DiskShortage) -> Option<&'static str> {
    match shortage {
        DiskShortage::Files { .. } => Some("remove files, or choose another output_dir"),
        DiskShortage::Bytes { .. } => Some("make room, lower max_checkpoints, or choose another output_dir"),
        _ => None,
    }
}

/// A sentence with what can be done about it.
pub(crate) fn with_hint(text: &str, hint: Option<&str>) -> String {
    hint.map_or_else(|| text.to_owned(), |hint| format!("{text} ({hint})"))
}

/// The way back, and the way on with the change.
fn other_config(path: &Path, differences: &[Difference], config: &Config) -> String {
    const BACK: &str = "set it back to go on with this run, ";
    let anew = || {
        let set = set_text("output_dir", "NEW_RUN");
        format!("begin a new run with the change: {}{set}", continuation::command_without_resume())
    };
    let changed = |key: &str| differences.iter().any(|difference| difference.key == key);
    if differences.iter().any(|difference| branch_keeps(&difference.key).is_some()) {
        return format!("{BACK}or {}", anew());
    }
    let values: Option<Vec<(String, String)>> = differences
        .iter()
        .map(|difference| Some((difference.key.clone(), config.value_of(&difference.key)?)))
        .collect();
    // A branch can set keys, but not unset them.
    let Some(mut set) = values else { return format!("{BACK}or {}", anew()) };
    let is_pending = |checkpoint: keepstep::Checkpoint| checkpoint.pending;
    if keepstep::store::load(path).is_ok_and(is_pending) {
        return format!(
            "{BACK}use `keepstep branch` on another checkpoint, as this one waits for an evaluation, or {}",
            anew()
        );
    }
    let name = path.file_name().and_then(|name| Name::parse(name.to_str()?));
    let step = name.and_then(|name| name.step);
    if changed("batch_size") {
        if step.is_some() {
            return format!(
                "{BACK}use `keepstep branch` on an epoch's last checkpoint, from which it can make this change, or {}",
                anew()
            );
        }
        for key in ["data.paths", "data.cargo_packages"] {
            set.extend(
                config.value_of(key).filter(|value| value != "[]").map(|value| (key.to_owned(), value)),
            );
        }
    }
    if step.is_some_and(|step| step % config.gradient_accumulation_steps != 0) {
        return format!(
            "{BACK}use `keepstep branch` on a checkpoint at a whole accumulation window, from which it can make this \
             change, or {}",
            anew()
        );
    }
    format!("{BACK}or {}", branch(path, &set))
}

/// The two ways on after the corpus has changed.
fn other_corpus(path: &Path, config: &Config) -> String {
    let mut set = set_text("output_dir", "NEW_RUN");
    set.push_str(&set_text("init_from", &path.display().to_string()));
    // The weights belong to the old tokens.
    if config.data.tokenizer != TokenizerSpec::Bytes {
        set.push_str(&set_text("data.tokenizer", &path.display().to_string()));
    }
    format!(
        "put it back to go on with this run, or begin a new run on this corpus with the weights so far: {}{set}",
        continuation::command_without_resume()
    )
}

fn branch(path: &Path, set: &[(String, String)]) -> String {
    let set: String = set.iter().map(|(key, value)| set_text(key, value)).collect();
    format!(
        "make a new run from here with the change: keepstep branch {} --out NEW_RUN{set}",
        quoted(&path.display().to_string())
    )
}

fn set_text(key: &str, value: &str) -> String {
    format!(" --set {}", quoted(&format!("{key}={value}")))
}
