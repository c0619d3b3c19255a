//! `keepstep push` to an object store.

use crate::arguments::PushArguments;
use crate::checkpoints::entries;
use crate::failure::Failure;
use crate::format::megabytes;
use crate::remote::{TransferBar, failure, open};
use crate::{output, remote};
use keepstep::name::BEST_MODEL;
use serde_json::json;
use std::sync::Arc;

pub(super) fn push(arguments: &PushArguments) -> Result<(), Failure> {
    let PushArguments { run, url, best, take_over, json, .. } = arguments;
    if remote::is_url(&run.to_string_lossy()) {
        return Err(Failure::new(2, format!("{}: give the run's folder first, then the URL", run.display())));
    }
    let mut names = Vec::new();
    let mut id = None;
    for entry in entries(run)? {
        match &entry.content {
            Ok(checkpoint) if !best || entry.name == BEST_MODEL => {
                id = Some(checkpoint.run_id());
                names.push(entry.name);
            }
            Ok(_) => {}
            Err(reason) => output::say(&format!("Skipped {}: {reason}", entry.name)),
        }
    }
    let Some(id) = id else {
        let what = if *best { BEST_MODEL } else { "checkpoint" };
        return Err(Failure::new(1, format!("{}: this folder has no valid {what}", run.display())));
    };
    let bar = Arc::new(TransferBar::new("Pushing"));
    let place = open(url)?.with_progress(Arc::<TransferBar>::clone(&bar));
    let pushed = place.push(run, &names, &id, !best, *take_over);
    bar.finish();
    let pushed = pushed.map_err(|error| failure(&error))?;
    pushed.notes.iter().for_each(|note| output::say(note));
    let seconds = pushed.took.as_secs_f64();
    if *json {
        return output::print_json(&json!({
            "url": url, "run": id, "files": pushed.files, "bytes": pushed.bytes, "seconds": seconds,
        }));
    }
    let files: String = pushed.files.iter().map(|file| format!("{file}\n")).collect();
    output::print(&files)?;
    output::say(&match pushed.files.len() {
        0 => format!("Everything is there already: {url}"),
        count => format!(
            "Pushed and verified {count} files to {url}: {} in {seconds:.1} s ({:.1} MB/s)",
            megabytes(pushed.bytes),
            pushed.bytes as f64 / 1e6 / seconds.max(1e-3)
        ),
    });
    Ok(())
}
