//! A tree of inputs, such as `/kaggle/input`, is searched for the newest checkpoint of this run.

use crate::errors::chain;
use keepstep::identity::{Identity, differences};
use keepstep::name::{BEST_MODEL, Name};
use keepstep::position::Position;
use keepstep::{Checkpoint, store};
use std::cmp::Reverse;
use std::path::{Path, PathBuf};

/// torch's number of threads. A run takes it from its checkpoint unless the user sets another.
const NUM_THREADS: &str = "keepstep.num_threads";

/// Links may go round in circles: no real tree is deeper.
const DEEPEST: usize = 16;

/// What a tree has.
pub(crate) struct Found {
    /// The newest valid checkpoint of the run.
    pub(crate) path: Option<PathBuf>,
    /// Whether any file has a name of keepstep's.
    pub(crate) has_candidates: bool,
    /// What was looked at and not taken, newest first, with reasons.
    pub(crate) passed: Vec<String>,
}

/// Searches a tree to any depth. Nothing is written.
pub(crate) fn search(root: &Path, identity: &Identity) -> Found {
    let mut files = Vec::new();
    collect(root, 0, &mut files);
    files.sort();
    let has_candidates = !files.is_empty();
    let (mut passed, mut candidates) = (Vec::new(), Vec::new());
    for path in files {
        match peek(&path) {
            Ok(checkpoint) => match stranger(&checkpoint.identity, identity) {
                Some(reason) => passed.push((checkpoint.position, format!("{}: {reason}", path.display()))),
                None => candidates.push((checkpoint.position, path)),
            },
            Err(reason) => passed.push((Position::START, format!("{}: {reason}", path.display()))),
        }
    }
    passed.sort_by_key(|(position, _)| Reverse(position.global_step));
    let mut passed: Vec<String> = passed.into_iter().map(|(_, text)| text).collect();
    let is_best = |path: &Path| path.file_name().is_some_and(|name| name == BEST_MODEL);
    candidates.sort_by_key(|(position, path)| (is_best(path), Reverse(position.global_step)));
    for (_, path) in candidates {
        match store::load(&path) {
            Ok(_) => return Found { path: Some(path), has_candidates, passed },
            Err(error) => passed.push(format!("{}: {}", path.display(), chain(&error))),
        }
    }
    Found { path: None, has_candidates, passed }
}

/// The root of a checkpoint, without its tensors' checksums.
fn peek(path: &Path) -> Result<Checkpoint, String> {
    let file = keepstep_pt::File::open(path).map_err(|error| chain(&error))?;
    Checkpoint::from_value(file.value()).map_err(|error| chain(&error))
}

/// Why a checkpoint is not of this run.
fn stranger(saved: &Identity, ours: &Identity) -> Option<String> {
    if saved.seed != ours.seed {
        return Some(format!("it is of another run, whose seed is {}", saved.seed));
    }
    let other = differences(&saved.config, &ours.config).into_iter().find(|it| it.key != NUM_THREADS);
    let other = other.or_else(|| saved.input_difference(ours));
    let text = |value: Option<String>| value.unwrap_or_else(|| "not set".to_owned());
    other.map(|it| format!("it is of another run, whose `{}` is {}", it.key, text(it.saved)))
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            if depth < DEEPEST {
                collect(&path, depth + 1, files);
            }
        } else if is_ours(&path) {
            files.push(path);
        }
    }
}

/// Whether a file has one of the names that keepstep gives.
fn is_ours(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name == BEST_MODEL || Name::parse(name).is_some())
}
