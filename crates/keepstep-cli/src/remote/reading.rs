//! Commands that read a run or a checkpoint at a URL by ranges, without a whole download.

use super::{TransferBar, failure, open};
use crate::checkpoints::{Entry, mark_best};
use crate::failure::Failure;
use crate::output;
use keepstep::Checkpoint;
use keepstep::name::{BEST_MODEL, Name};
use keepstep::remote::RemoteError;
use keepstep::store::chain;
use keepstep_pt::{File, Value};
use keepstep_remote::{Manifest, Object, ObjectRemote};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

/// Checkpoints whose roots are read at the same time.
const AT_ONCE: usize = 8;

/// Reads the manifest, and warns if it had to be made from a listing.
fn manifest(remote: &ObjectRemote) -> Result<Manifest, Failure> {
    let (manifest, warning) = remote.manifest().map_err(|error| failure(&error))?;
    if let Some(warning) = warning {
        output::say(&warning);
    }
    Ok(manifest)
}

/// The object that a URL names: a checkpoint's, or the best model's or the newest checkpoint's of a run.
fn named<'a>(remote: &ObjectRemote, url: &str, manifest: &'a Manifest) -> Result<&'a Object, Failure> {
    if let Some(name) = remote.checkpoint_name() {
        let object = manifest.files.get(name);
        let by_key = || manifest.files.values().find(|object| object.key == name);
        return object
            .or_else(by_key)
            .ok_or_else(|| Failure::new(1, format!("{url}: there is no such checkpoint")));
    }
    let newest = || {
        let checkpoints = manifest.files.iter().filter(|(name, _)| Name::parse(name).is_some());
        checkpoints.max_by_key(|(_, object)| object.global_step).map(|(_, object)| object)
    };
    let object = manifest.files.get(BEST_MODEL).or_else(newest);
    object.ok_or_else(|| Failure::new(1, format!("{url}: there is no checkpoint here")))
}

/// Loads the checkpoint that a URL names. Its tensors are read on access.
pub(crate) fn load(url: &str) -> Result<Checkpoint, Failure> {
    let remote = open(url)?;
    let manifest = manifest(&remote)?;
    let file = File::from_source(url, remote.read(named(&remote, url, &manifest)?))?;
    Checkpoint::from_value(file.value()).map_err(|error| Failure::about(1, url, &error))
}

/// The values of the checkpoint that a URL names. Its tensors cannot be read.
pub(crate) fn values(url: &str) -> Result<Value, Failure> {
    let remote = open(url)?;
    let manifest = manifest(&remote)?;
    let object = named(&remote, url, &manifest)?;
    Ok(File::values_from_source(url, remote.read(object))?)
}

/// How often a listing begins anew while a session lets go of checkpoints.
const LISTINGS: usize = 5;

/// The checkpoints of the run at a URL, the best last.
pub(crate) fn entries(url: &str) -> Result<Vec<Entry>, Failure> {
    let remote = open(url)?;
    let mut manifest = manifest(&remote)?;
    for _ in 1..LISTINGS {
        let mut entries = named_entries(&remote, url, &manifest);
        let is_whole = entries.iter().all(|entry| entry.content.is_ok());
        match if is_whole { None } else { remote.later(&manifest).map_err(|error| failure(&error))? } {
            Some(later) => manifest = later,
            None => {
                mark_best(&mut entries);
                return Ok(entries);
            }
        }
    }
    let mut entries = named_entries(&remote, url, &manifest);
    mark_best(&mut entries);
    Ok(entries)
}

/// The checkpoints that a manifest names, several read at once.
fn named_entries(remote: &ObjectRemote, url: &str, manifest: &Manifest) -> Vec<Entry> {
    let mut names: Vec<(u64, &String, &Object)> = manifest
        .files
        .iter()
        .filter_map(|(name, object)| match Name::parse(name) {
            Some(parsed) => Some((parsed.global_step, name, object)),
            None => (name == BEST_MODEL).then_some((u64::MAX, name, object)),
        })
        .collect();
    names.sort_by_key(|(step, name, _)| (*step, name.as_str()));
    let mut entries = Vec::new();
    for part in names.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let read = |(_, name, object): &(u64, &String, &Object)| {
                let (name, size, place) = ((*name).clone(), object.size, format!("{url}/{name}"));
                let source = remote.read(object);
                scope.spawn(move || {
                    let values = File::values_from_source(&place, source).map_err(|error| chain(&error));
                    let content =
                        values.and_then(|root| Checkpoint::from_value(&root).map_err(|error| chain(&error)));
                    Entry { name, size, age: None, content, is_scheduled: None, is_best: false }
                })
            };
            let threads: Vec<_> = part.iter().map(read).collect();
            let join = |thread: ScopedJoinHandle<'_, Entry>| {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            entries.extend(threads.into_iter().map(join));
        });
    }
    entries
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
    if remote.checkpoint_name().is_some() {
        let object = named(&remote, url, &manifest)?;
        let same = |(_, other): &(&String, &Object)| other.key == object.key;
        let name = manifest.files.iter().find(same).map_or(object.key.as_str(), |(name, _)| name);
        report(name, remote.verify(name, object));
    } else {
        remote.verify_run(manifest, &mut report).map_err(|error| failure(&error))?;
    }
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
