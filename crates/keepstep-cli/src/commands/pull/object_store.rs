//! `keepstep pull` from an object store.

use crate::arguments::PullArguments;
use crate::failure::Failure;
use crate::format::megabytes;
use crate::output;
use crate::remote::{TransferBar, failure, open};
use serde_json::json;
use std::sync::Arc;

pub(super) fn pull(arguments: &PullArguments) -> Result<(), Failure> {
    let PullArguments { url, dir, json, .. } = arguments;
    let bar = Arc::new(TransferBar::new("Pulling"));
    let place = open(url)?.with_progress(Arc::<TransferBar>::clone(&bar));
    let pulled = place.pull(dir);
    bar.finish();
    let pulled = pulled.map_err(|error| failure(&error))?;
    pulled.notes.iter().for_each(|note| output::say(note));
    let seconds = pulled.took.as_secs_f64();
    let files: Vec<String> = pulled.files.iter().map(|path| path.display().to_string()).collect();
    if *json {
        return output::print_json(&json!({
            "url": url, "dir": dir.display().to_string(), "files": files, "bytes": pulled.bytes,
            "seconds": seconds,
        }));
    }
    output::print(&files.iter().map(|file| format!("{file}\n")).collect::<String>())?;
    output::say(&match files.len() {
        0 => format!("Everything is here already: {}", dir.display()),
        count => format!(
            "Pulled and verified {count} files into {}: {} in {seconds:.1} s ({:.1} MB/s)",
            dir.display(),
            megabytes(pulled.bytes),
            pulled.bytes as f64 / 1e6 / seconds.max(1e-3)
        ),
    });
    Ok(())
}
