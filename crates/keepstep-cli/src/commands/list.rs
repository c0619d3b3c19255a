//! `keepstep list`: the checkpoints of a run.

use crate::checkpoints::{Entry, entries};
use crate::failure::Failure;
use crate::format;
use crate::output;
use crate::table::Table;
use keepstep::Checkpoint;
use serde_json::json;
use std::path::Path;

pub(crate) fn run(folder: &Path, json: bool) -> Result<(), Failure> {
    let entries = entries(folder)?;
    if json {
        let list: Vec<_> = entries.iter().map(to_json).collect();
        return output::print_json(&list.into());
    }
    if entries.is_empty() {
        return Err(Failure::new(
            1,
            format!("{}: there is no checkpoint here; give a run's output_dir", folder.display()),
        ));
    }
    output::print(&table(&entries).render(output::terminal_width()))
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
            loss.map_or_else(|| "-".to_owned(), format::loss)
        }
        table.row(vec![
            entry.name.clone(),
            number(|checkpoint| checkpoint.position.epoch.to_string()),
            number(|checkpoint| checkpoint.position.step.to_string()),
            number(|checkpoint| checkpoint.position.global_step.to_string()),
            number(|checkpoint| loss(checkpoint.metrics.train_loss())),
            number(|checkpoint| loss(checkpoint.metrics.val_loss)),
            format::megabytes(entry.size),
            entry.age.map_or_else(|| "?".to_owned(), format::age),
            entry.state(),
        ]);
    }
    table
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
