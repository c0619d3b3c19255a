//! Commands that read a run or a checkpoint at a URL by ranges, without a whole download.

use super::{TransferBar, failure, open};
use crate::checkpoints::{Entry, mark_best};
use crate::failure::Failure;
use crate::output;
use keepstep::Checkpoint;
use keepstep::name::{BEST_MODEL, Name};
use keepstep::store::chain;
use keepstep_pt::{File, Value};
use keepstep_remote::{Manifest, Object, ObjectRemote};
use std::sync::{Arc, Mutex, PoisonError};

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

/// The checkpoints of the run at a URL, the best last.
pub(crate) fn entries(url: &str) -> Result<Vec<Entry>, Failure> {
    let remote = open(url)?;
    let manifest = manifest(&remote)?;
    let mut names: Vec<(u64, &String, &Object)> = manifest
        .files
        .iter()
        .filter_map(|(name, object)| match Name::parse(name) {
            Some(parsed) => Some((parsed.global_step, name, object)),
            None => (name == BEST_MODEL).then_some((u64::MAX, name, object)),
        })
        .collect();
    names.sort_by_key(|(step, name, _)| (*step, name.as_str()));
    let entries: Mutex<Vec<(usize, Entry)>> = Mutex::default();
    for part in names.iter().enumerate().collect::<Vec<_>>().chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            for (nth, (_, name, object)) in part {
                let (remote, entries) = (&remote, &entries);
                scope.spawn(move || {
                    let place = format!("{url}/{name}");
                    let values =
                        File::values_from_source(&place, remote.read(object)).map_err(|error| chain(&error));
                    let content =
                        values.and_then(|root| Checkpoint::from_value(&root).map_err(|error| chain(&error)));
                    let entry = Entry {
                        name: (*name).clone(),
                        size: object.size,
                        age: None,
                        content,
                        is_scheduled: None,
                        is_best: false,
                    };
                    entries.lock().unwrap_or_else(PoisonError::into_inner).push((*nth, entry));
                });
            }
        });
    }
    let mut entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
    entries.sort_by_key(|(nth, _)| *nth);
    let mut entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
    mark_best(&mut entries);
    Ok(entries)
}

/// Reads every file of a run, or one, and compares its hash with the manifest's.
pub(crate) fn verify(url: &str) -> Result<(), Failure> {
    let bar = Arc::new(TransferBar::new("Reading"));
    let remote = open(url)?.with_progress(Arc::<TransferBar>::clone(&bar));
    let manifest = manifest(&remote)?;
    let only = match remote.checkpoint_name() {
        Some(_) => Some(named(&remote, url, &manifest)?.key.clone()),
        None => None,
    };
    let (mut damaged, mut count) = (0, 0);
    for (name, object) in &manifest.files {
        if only.as_ref().is_some_and(|key| *key != object.key) {
            continue;
        }
        count += 1;
        let result = remote.verify(name, object);
        bar.finish();
        match result {
            Ok(()) => output::print(&format!("{name}: valid\n"))?,
            Err(error) => {
                damaged += 1;
                output::print(&format!("{name}: DAMAGED\n"))?;
                output::say(&format!("keepstep: {error}"));
            }
        }
    }
    if only.is_none() && !manifest.journal.is_empty() {
        count += 1;
        match remote.journal(&manifest) {
            Ok(_) => output::print("journal.jsonl: valid\n")?,
            Err(error) => {
                damaged += 1;
                output::print("journal.jsonl: DAMAGED\n")?;
                output::say(&format!("keepstep: {error}"));
            }
        }
    }
    match damaged {
        0 => Ok(()),
        _ => Err(Failure::new(1, format!("{damaged} of {count} files are damaged or missing"))),
    }
}

/// Copies the run at a URL into a folder.
pub(crate) fn pull(url: &str, folder: &std::path::Path) -> Result<(), Failure> {
    open(url)?.pull(folder).map(drop).map_err(|error| failure(&error))
}
