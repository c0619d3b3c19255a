//! `keepstep list`: the checkpoints of a run.

use super::Failure;
use crate::progress::megabytes;
use crate::table::{Table, terminal_width};
use keepstep::Checkpoint;
use keepstep::journal::sessions::saves;
use keepstep::name::{BEST_MODEL, Name};
use keepstep::store::{chain, load};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file and what it holds, or why it does not hold.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) size: u64,
    age: Option<Duration>,
    pub(super) content: Result<Checkpoint, String>,
    /// Whether it was saved on schedule, where the journal knows it.
    is_scheduled: Option<bool>,
    /// Whether it is the best of all that any of the files knows.
    is_best: bool,
}

pub(crate) fn run(folder: &Path, json: bool) -> Result<(), Failure> {
    let entries = entries(folder)?;
    if json {
        let list: Vec<_> = entries.iter().map(to_json).collect();
        return super::print(&format!("{:#}\n", serde_json::Value::from(list)));
    }
    if entries.is_empty() {
        return Err(Failure::new(1, format!("{}: there is no checkpoint in this folder", folder.display())));
    }
    super::print(&table(&entries).render(terminal_width()))
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new(&[
        ("FILE", false),
        ("EPOCH", true),
        ("STEP", true),
        ("GLOBAL STEP", true),
        ("TRAIN LOSS", true),
        ("VAL LOSS", true),
        ("SIZE", true),
        ("AGE", true),
        ("STATE", false),
    ]);
    for entry in entries {
        let number =
            |number: fn(&Checkpoint) -> String| entry.content.as_ref().map_or("-".to_owned(), number);
        fn loss(loss: Option<f64>) -> String {
            loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"))
        }
        table.row(vec![
            entry.name.clone(),
            number(|checkpoint| checkpoint.position.epoch.to_string()),
            number(|checkpoint| checkpoint.position.step.to_string()),
            number(|checkpoint| checkpoint.position.global_step.to_string()),
            number(|checkpoint| loss(checkpoint.metrics.train_loss())),
            number(|checkpoint| loss(checkpoint.metrics.val_loss)),
            megabytes(entry.size),
            entry.age.map_or_else(|| "?".to_owned(), short),
            entry.state(),
        ]);
    }
    table
}

impl Entry {
    /// Whether it holds, and what it is.
    pub(super) fn state(&self) -> String {
        match &self.content {
            Ok(_) => {
                let marks = self.marks();
                if marks.is_empty() { "valid".to_owned() } else { format!("valid, {}", marks.join(", ")) }
            }
            Err(reason) => format!("DAMAGED: {reason}"),
        }
    }

    /// What there is to know beside its numbers.
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

/// The checkpoints of a folder, the best last.
pub(super) fn entries(folder: &Path) -> Result<Vec<Entry>, Failure> {
    let unreadable = |error| Failure::new(1, format!("{}: {error}", folder.display()));
    let mut paths: Vec<(u64, String, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        match Name::parse(&name) {
            Some(parsed) => paths.push((parsed.global_step, name, path)),
            // The best comes last, after all others.
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
    let checkpoints = entries.iter().filter_map(|entry| entry.content.as_ref().ok());
    let bests = checkpoints.filter_map(|checkpoint| Some((checkpoint.metrics.best?, &checkpoint.objective)));
    let best = bests.reduce(
        |one, other| {
            if other.1.is_better(other.0.value, Some(one.0.value)) { other } else { one }
        },
    );
    if let Some(best) = best.map(|(best, _)| best) {
        for entry in &mut entries {
            entry.is_best =
                entry.content.as_ref().is_ok_and(|checkpoint| checkpoint.position == best.position);
        }
    }
    Ok(entries)
}

fn to_json(entry: &Entry) -> serde_json::Value {
    let age = entry.age.map(|age| age.as_secs());
    match &entry.content {
        Ok(checkpoint) => json!({
            "file": entry.name, "valid": true, "size_bytes": entry.size, "age_seconds": age,
            "epoch": checkpoint.position.epoch, "step": checkpoint.position.step,
            "global_step": checkpoint.position.global_step,
            "train_loss": checkpoint.metrics.train_loss(), "val_loss": checkpoint.metrics.val_loss,
            "best_val_loss": checkpoint.best_val_loss(), "pending": checkpoint.pending,
            "best": entry.is_best,
            "scheduled": entry.is_scheduled,
        }),
        Err(reason) => json!({
            "file": entry.name, "valid": false, "size_bytes": entry.size, "age_seconds": age, "reason": reason,
        }),
    }
}

/// "12s", "5m", "3h", "2d"
fn short(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
