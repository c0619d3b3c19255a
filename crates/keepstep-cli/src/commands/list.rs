//! `keepstep list`: the checkpoints of a run.

use super::Failure;
use keepstep::Checkpoint;
use keepstep::name::{BEST_MODEL, Name};
use keepstep::store::{chain, load};
use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file and what it holds, or why it does not hold.
struct Entry {
    name: String,
    size: u64,
    age: Option<Duration>,
    content: Result<Checkpoint, String>,
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
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    let mut text = format!(
        "{:width$}  {:>5} {:>8} {:>11} {:>10} {:>10} {:>9} {:>8}\n",
        "FILE", "EPOCH", "STEP", "GLOBAL STEP", "TRAIN LOSS", "VAL LOSS", "SIZE", "AGE"
    );
    for entry in &entries {
        let _ = write!(text, "{:width$}  ", entry.name);
        let age = entry.age.map_or_else(|| "?".to_owned(), short);
        let size = format!("{:.1} MB", entry.size as f64 / 1e6);
        let _ = match &entry.content {
            Ok(checkpoint) => {
                let (position, metrics) = (checkpoint.position, checkpoint.metrics);
                let loss =
                    |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
                writeln!(
                    text,
                    "{:>5} {:>8} {:>11} {:>10} {:>10} {size:>9} {age:>8}",
                    position.epoch,
                    position.step,
                    position.global_step,
                    loss(metrics.train_loss()),
                    loss(metrics.val_loss),
                )
            }
            Err(reason) => writeln!(text, "DAMAGED: {reason}"),
        };
    }
    super::print(&text)
}

fn entries(folder: &Path) -> Result<Vec<Entry>, Failure> {
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
    Ok(paths
        .into_iter()
        .map(|(_, name, path)| {
            let metadata = path.metadata().ok();
            Entry {
                name,
                size: metadata.as_ref().map_or(0, std::fs::Metadata::len),
                age: metadata.and_then(|metadata| metadata.modified().ok()?.elapsed().ok()),
                content: load(&path).map_err(|error| chain(&error)),
            }
        })
        .collect())
}

fn to_json(entry: &Entry) -> serde_json::Value {
    let age = entry.age.map(|age| age.as_secs());
    match &entry.content {
        Ok(checkpoint) => json!({
            "file": entry.name, "valid": true, "size_bytes": entry.size, "age_seconds": age,
            "epoch": checkpoint.position.epoch, "step": checkpoint.position.step,
            "global_step": checkpoint.position.global_step,
            "train_loss": checkpoint.metrics.train_loss(), "val_loss": checkpoint.metrics.val_loss,
            "best_val_loss": checkpoint.metrics.best.map(|best| best.val_loss), "pending": checkpoint.pending,
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
