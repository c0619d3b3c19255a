//! The checkpoints of a folder, and the one that a path names.

use crate::failure::Failure;
use keepstep::Checkpoint;
use keepstep::journal::sessions::saves;
use keepstep::name::{BEST_MODEL, Name};
use keepstep::store::{Candidates, Disk, chain, find, load};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A checkpoint file: its contents, or why it cannot be read.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) age: Option<Duration>,
    pub(crate) content: Result<Checkpoint, String>,
    /// Whether it was saved on schedule, if the journal records it.
    pub(crate) is_scheduled: Option<bool>,
    /// Whether it has the best validation result of all.
    pub(crate) is_best: bool,
}

impl Entry {
    /// The state of the file: valid with its marks, or damaged.
    pub(crate) fn state(&self) -> String {
        match &self.content {
            Ok(_) => {
                let marks = self.marks();
                if marks.is_empty() { "valid".to_owned() } else { format!("valid, {}", marks.join(", ")) }
            }
            Err(reason) => format!("DAMAGED: {reason}"),
        }
    }

    /// Properties that the numbers do not show.
    fn marks(&self) -> Vec<&'static str> {
        let Ok(checkpoint) = &self.content else { return Vec::new() };
        let marks = [
            (Name::parse(&self.name).is_some_and(|name| name.step.is_none()), "end of epoch"),
            (self.is_best, "best"),
            (self.is_scheduled == Some(false), "off schedule"),
            (checkpoint.pending, "evaluation pending"),
        ];
        marks.into_iter().filter(|(holds, _)| *holds).map(|(_, mark)| mark).collect()
    }
}

/// The URL of an object store that a path is, if it is one.
pub(crate) fn url(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| crate::remote::is_url(text))
}

/// The checkpoints of a folder or a URL, the best last.
pub(crate) fn entries(folder: &Path) -> Result<Vec<Entry>, Failure> {
    if let Some(url) = url(folder) {
        return crate::remote::entries(url);
    }
    let unreadable = |error: std::io::Error| Failure::at(folder, &error);
    let mut paths: Vec<(u64, String, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        match Name::parse(&name) {
            Some(parsed) => paths.push((parsed.global_step, name, path)),
            // The best model comes last.
            None if name == BEST_MODEL => paths.push((u64::MAX, name, path)),
            None => {}
        }
    }
    paths.sort();
    let saves = saves(folder);
    let mut entries: Vec<Entry> = paths
        .into_iter()
        .map(|(_, name, path)| {
            let metadata = path.metadata().ok();
            Entry {
                is_scheduled: saves.get(&name).copied(),
                name,
                size: metadata.as_ref().map_or(0, std::fs::Metadata::len),
                age: metadata.and_then(|metadata| metadata.modified().ok()?.elapsed().ok()),
                content: load(&path).map_err(|error| chain(&error)),
                is_best: false,
            }
        })
        .collect();
    mark_best(&mut entries);
    Ok(entries)
}

/// Marks the entries that have the best validation result of all.
pub(crate) fn mark_best(entries: &mut [Entry]) {
    let checkpoints = entries.iter().filter_map(|entry| entry.content.as_ref().ok());
    let bests = checkpoints.filter_map(|checkpoint| Some((checkpoint.metrics.best?, &checkpoint.objective)));
    let best = bests.reduce(
        |one, other| {
            if other.1.is_better(other.0.value, Some(one.0.value)) { other } else { one }
        },
    );
    if let Some(best) = best.map(|(best, _)| best) {
        for entry in entries {
            entry.is_best =
                entry.content.as_ref().is_ok_and(|checkpoint| checkpoint.position == best.position);
        }
    }
}

/// Calls `work` with the checkpoint that a path or a URL names, whose model it reads: see [`load_path`]. At a URL, a running
/// session may remove the checkpoint meanwhile; `work` is then called again with a later one, and must not have written
/// anything before the model has been read.
pub(crate) fn with_model<T>(
    path: &Path,
    mut work: impl FnMut(&Checkpoint) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let Some(url) = url(path) else { return work(&load_path(path)?) };
    crate::remote::with_file(url, |file| {
        let checkpoint = Checkpoint::from_value(file.value());
        let checkpoint = checkpoint.map_err(|error| Failure::about(1, url, &error))?;
        file.will_read(checkpoint.state.part("model"));
        work(&checkpoint)
    })
}

/// Loads the checkpoint that a path names: a file, or a run's best model or newest valid checkpoint.
pub(crate) fn load_path(path: &Path) -> Result<Checkpoint, Failure> {
    if !path.is_dir() {
        return load(path).map_err(|error| Failure::about(1, &path.display().to_string(), &error));
    }
    if let Ok(best) = load(&path.join(BEST_MODEL)) {
        return Ok(best);
    }
    let candidates = Candidates::new(path);
    match find(&Disk, &candidates).map_err(|error| Failure::of(1, &error))? {
        Some(found) => Ok(found.checkpoint),
        None => Err(Failure::new(
            1,
            format!("{}: this folder has no valid checkpoint; give a run's output_dir", path.display()),
        )),
    }
}

/// The `.pt` files of a folder, in the order of their names.
pub(crate) fn pt_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error: std::io::Error| Failure::at(folder, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "pt") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
