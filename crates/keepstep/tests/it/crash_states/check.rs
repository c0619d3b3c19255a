//! What must hold in a state that a crash left.

use super::script::{Expectation, FOLDER, Known, contents, hash, stated};
use crate::support::{archive, name, retention, save};
use keepstep::name::BEST_MODEL;
use keepstep::store::{Candidates, SourceError, Store, find};
use keepstep::testing::{Memory, Tree};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Discovery finds the newest checkpoint that is whole, which is no older than the last that was reported; the best is
/// there; the folder opens anew without what was half written; and saving goes on.
pub fn check(tree: &Tree, expect: &Expectation, known: &Known) -> Result<(), String> {
    let storage = Memory::new(tree.clone());
    let newest = known.newest(tree);
    found(&storage, newest.as_ref())?;
    let step = newest.map_or(0, |(_, step)| step);
    if step < expect.reported || step > expect.begun {
        return Err(format!(
            "the newest valid checkpoint is {step}, with {} reported as saved and {} begun",
            expect.reported, expect.begun
        ));
    }
    let best = tree.content(&Path::new(FOLDER).join(BEST_MODEL)).and_then(|content| known.step(content));
    if expect.best > 0 && best.is_none_or(|step| step < expect.best || step > expect.begun) {
        return Err(format!("the best holds {best:?}, with {} reported as saved", expect.best));
    }
    if !expect.superseded.is_subset(&contents(tree)) {
        return Err("a checkpoint that a rewind put aside is lost".to_owned());
    }
    goes_on(&storage, known, step)
}

fn found(storage: &Memory, newest: Option<&(PathBuf, u64)>) -> Result<(), String> {
    let candidates = Candidates::new(Path::new(FOLDER));
    match (find(storage, &candidates), newest) {
        (Ok(None), None) => Ok(()),
        (Err(SourceError::NothingValid { skipped }), None) if !skipped.is_empty() => Ok(()),
        (Ok(Some(found)), Some((path, step)))
            if found.path == *path && found.checkpoint.position.global_step == *step =>
        {
            Ok(())
        }
        (found, _) => Err(format!("discovery must find {newest:?} and finds {found:?}")),
    }
}

/// The next process opens the folder and makes one save.
fn goes_on(storage: &Memory, known: &Known, step: u64) -> Result<(), String> {
    const KEPT: usize = 3;
    let folder = Path::new(FOLDER);
    let mut store = Store::open(folder, Arc::new(storage.clone())).map_err(|error| error.to_string())?;
    let tree = storage.tree();
    let left = tree.names.keys().find(|path| path.parent() == Some(folder) && stated(path).is_none());
    if let Some(path) = left {
        return Err(format!("{} is left after the folder was opened anew", path.display()));
    }
    let valid = known.valid(&tree);
    let next = step + 1;
    // Not in what is known: whatever holds it was written just now.
    let is_best = step.is_multiple_of(2);
    save(&mut store, next, &archive(next, 999, 16), is_best, &retention(KEPT, 1))
        .map_err(|error| format!("the next save: {error}"))?;
    let tree = storage.tree();
    let candidates = Candidates::new(folder);
    let found = find(storage, &candidates).map_err(|error| error.to_string())?;
    if found.is_none_or(|found| found.path != folder.join(name(next))) {
        return Err(format!("discovery does not find the next save, {next}"));
    }
    let before = valid.keys().filter(|path| !path.ends_with(BEST_MODEL)).count();
    let is_checkpoint = |path: &&PathBuf| !path.ends_with(BEST_MODEL) && !path.ends_with(name(next));
    let after = known.valid(&tree).keys().filter(is_checkpoint).count() + 1;
    if after < KEPT.min(before + 1) {
        return Err(format!("rotation leaves {after} of {before} valid checkpoints and a new one"));
    }
    Ok(())
}

/// A number that tells one state from another; and one that leaves out what is half written.
pub fn identity(tree: &Tree) -> (u64, u64) {
    let of = |path: &PathBuf| (path.clone(), tree.content(path).map(hash));
    let all: Vec<_> = tree.names.keys().map(of).collect();
    let seen: Vec<_> = tree.names.keys().filter(|path| stated(path).is_some()).map(of).collect();
    (hash(&(&tree.folders, all)), hash(&(&tree.folders, seen)))
}
