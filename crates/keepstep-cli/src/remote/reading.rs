//! Commands that read a run or a checkpoint at a URL by ranges, without a whole download.

use super::{TransferBar, failure, open};
use crate::checkpoints::{Entry, mark_best};
use crate::failure::Failure;
use crate::output;
use keepstep::remote::RemoteError;
use keepstep_pt::File;
use keepstep_remote::{Listed, Manifest, ObjectRemote};
use std::sync::Arc;

/// Reads the manifest, and warns if it had to be made from a listing.
fn manifest(remote: &ObjectRemote) -> Result<Manifest, Failure> {
    let (manifest, warning) = remote.manifest().map_err(|error| failure(&error))?;
    if let Some(warning) = warning {
        output::say(&warning);
    }
    Ok(manifest)
}

/// Calls `work` with the checkpoint file that a URL names, or the best model's or the newest checkpoint of a run. Tensors
/// are read on access. `work` is called again if a session removes the file meanwhile.
pub(crate) fn with_file<T>(
    url: &str,
    mut work: impl FnMut(&File) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let remote = open(url)?;
    let manifest = manifest(&remote)?;
    remote.with_file(manifest, |file| work(&file?)).map_err(|error| failure(&error))?
}

/// The checkpoints of the run at a URL, the best last.
pub(crate) fn entries(url: &str) -> Result<Vec<Entry>, Failure> {
    let remote = open(url)?;
    let manifest = manifest(&remote)?;
    let listed = remote.checkpoints(manifest).map_err(|error| failure(&error))?;
    let entry = |Listed { name, size, content, .. }: Listed| Entry {
        name,
        size,
        age: None,
        content,
        is_scheduled: None,
        is_best: false,
    };
    let mut entries: Vec<Entry> = listed.into_iter().map(entry).collect();
    mark_best(&mut entries);
    Ok(entries)
}

/// Reads every file of a run, or one, and compares its hash with the manifest's.
pub(crate) fn verify(url: &str) -> Result<(), Failure> {
    let bar = Arc::new(TransferBar::new("Reading"));
    let remote = open(url)?.with_progress(Arc::<TransferBar>::clone(&bar));
    let manifest = manifest(&remote)?;
    let (mut damaged, mut count, mut printed) = (0, 0, Ok(()));
    let mut report = |name: &str, result: Result<(), RemoteError>| {
        bar.finish();
        count += 1;
        let state = if result.is_ok() { "valid" } else { "DAMAGED" };
        if printed.is_ok() {
            printed = output::print(&format!("{name}: {state}\n"));
        }
        if let Err(error) = result {
            damaged += 1;
            output::say(&format!("keepstep: {error}"));
        }
    };
    remote.verify(manifest, &mut report).map_err(|error| failure(&error))?;
    printed?;
    match damaged {
        0 => Ok(()),
        _ => Err(Failure::new(1, format!("{damaged} of {count} files are damaged or missing"))),
    }
}

/// Copies the run at a URL into a folder.
pub(crate) fn pull(url: &str, folder: &std::path::Path) -> Result<(), Failure> {
    open(url)?.pull(folder).map(drop).map_err(|error| failure(&error))
}
