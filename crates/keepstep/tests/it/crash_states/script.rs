//! A session of a run: what it does to its folder, and what must hold after a crash at each of its operations.

use crate::support::random::Random;
use crate::support::{archive, bytes, name, retention, save};
use keepstep::name::{BEST_MODEL, Name};
use keepstep::store::{Retention, SUPERSEDED, Store};
use keepstep::testing::{Memory, Operation, Tree};
use keepstep_pt::{Archive, File};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The run's folder; its parent is not there at first either.
pub const FOLDER: &str = "/runs/mine";

/// What a crash must leave.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    /// The newest checkpoint that was reported as saved.
    pub reported: u64,
    /// The newest that may be there.
    pub begun: u64,
    /// The newest best that was reported as saved; 0 if none was.
    pub best: u64,
    /// Contents that a rewind put aside.
    pub superseded: BTreeSet<u64>,
}

/// The checkpoints that were ever written, by the hash of their bytes.
#[derive(Default)]
pub struct Known {
    archives: BTreeMap<(u64, u64), Arc<Archive>>,
    steps: BTreeMap<u64, u64>,
}

impl Known {
    fn archive(&mut self, global_step: u64, branch: u64) -> Arc<Archive> {
        let made = self.archives.entry((global_step, branch)).or_insert_with(|| {
            // Of several sizes.
            let archive = archive(global_step, branch, 16 + (global_step % 3) as usize * 100);
            self.steps.insert(hash(&bytes(&archive)), global_step);
            Arc::new(archive)
        });
        Arc::clone(made)
    }

    /// The step that this content is the checkpoint of, if it is whole.
    pub fn step(&self, content: &[u8]) -> Option<u64> {
        self.steps.get(&hash(content)).copied()
    }

    /// Takes a changed content for whole where it loads as the same: not every bit of a file means something.
    pub fn take_as_whole(&mut self, changed: &[u8], whole: &[u8]) -> bool {
        let value = |content: &[u8]| {
            let file = File::from_source("changed", Arc::new(content.to_vec())).ok()?;
            file.verify().ok()?;
            Some(file.value().clone())
        };
        let Some(step) = self.step(whole) else { return false };
        let is_same = value(changed).is_some_and(|changed| Some(changed) == value(whole));
        if is_same {
            self.steps.insert(hash(changed), step);
        }
        is_same
    }

    /// The valid checkpoints of the folder, and its best: said by the bytes alone.
    pub fn valid(&self, tree: &Tree) -> BTreeMap<PathBuf, u64> {
        let is_candidate =
            |path: &&PathBuf| path.parent() == Some(Path::new(FOLDER)) && stated(path).is_some();
        let step = |path: &PathBuf| Some((path.clone(), self.step(tree.content(path)?)?));
        tree.names.keys().filter(is_candidate).filter_map(step).collect()
    }

    /// The checkpoint that discovery must find.
    pub fn newest(&self, tree: &Tree) -> Option<(PathBuf, u64)> {
        self.valid(tree).into_iter().max_by_key(|(path, step)| (!path.ends_with(BEST_MODEL), *step))
    }
}

/// The global step in a checkpoint's name, or 0 for the best's.
pub fn stated(path: &Path) -> Option<u64> {
    match path.file_name()?.to_str()? {
        BEST_MODEL => Some(0),
        name => Name::parse(name).map(|name| name.global_step),
    }
}

pub fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What a session does.
#[derive(Debug, Clone)]
pub struct Script {
    pub retention: Retention,
    pub has_no_links: bool,
    /// Goes back by so many checkpoints first.
    pub rewind: Option<usize>,
    /// Updates until each save, and whether it is the best.
    pub saves: Vec<(u64, bool)>,
}

impl Script {
    pub fn random(random: &mut Random) -> Script {
        Script {
            retention: retention(1 + random.below(3) as usize, 1 + random.below(3)),
            has_no_links: random.once_in(8),
            rewind: random.once_in(4).then(|| 1 + random.below(2) as usize),
            saves: (0..1 + random.below(4)).map(|_| (1 + random.below(3), random.once_in(3))).collect(),
        }
    }
}

/// What a session did.
pub struct Session {
    pub operations: Vec<Operation>,
    /// From this operation on, this must hold after a crash.
    expectations: Vec<(usize, Expectation)>,
}

impl Session {
    /// Runs the script over what is there. `branch` tells the contents of one session's checkpoints from another's.
    pub fn run(
        script: &Script,
        memory: &Memory,
        before: &Expectation,
        known: &mut Known,
        branch: u64,
    ) -> Session {
        let mut expect = before.clone();
        let mut expectations = vec![(0, expect.clone())];
        let mut note = |expect: &Expectation| expectations.push((memory.num_operations(), expect.clone()));
        let mut store = Store::open(Path::new(FOLDER), Arc::new(memory.clone())).expect("the folder");
        let mut step = known.newest(&memory.tree()).map_or(0, |(_, step)| step);
        expect.begun = expect.begun.max(step);
        // A rewind that was cut short and is not made again leaves the rest to rotation.
        let aside = Path::new(FOLDER).join(SUPERSEDED);
        let tree = memory.tree();
        let lies_aside = |content: &u64| {
            let names = tree.names.keys().filter(|path| path.parent() == Some(&aside));
            names.filter_map(|path| tree.content(path)).any(|there| hash(there) == *content)
        };
        expect.superseded.retain(lies_aside);
        note(&expect);
        if let Some(target) = script.rewind.and_then(|back| earlier(&memory.tree(), known, back)) {
            let tree = memory.tree();
            let is_later = |step: u64| step > target;
            // What was never reported may still be lost.
            let was_reported = |path: &Path, step: u64| {
                step <= if path.ends_with(BEST_MODEL) { expect.best } else { expect.reported }
            };
            let moved = known.valid(&tree).into_iter();
            let moved = moved.filter(|(path, step)| is_later(*step) && was_reported(path, *step));
            expect.superseded =
                moved.map(|(path, _)| hash(tree.content(&path).expect("it is there"))).collect();
            expect.reported = expect.reported.min(target);
            // The best that is there may be later than the last that was reported.
            let there = known.valid(&tree).get(&Path::new(FOLDER).join(BEST_MODEL)).copied();
            let best = if there.is_some_and(is_later) { 0 } else { expect.best };
            expect.best = best;
            note(&expect);
            store.supersede(target).expect("later ones are moved");
            (expect.reported, expect.begun, step) = (target, target, target);
            note(&expect);
            if best == 0 && !memory.tree().names.contains_key(&Path::new(FOLDER).join(BEST_MODEL)) {
                let path = Path::new(FOLDER).join(name(target));
                store.publish_copy(BEST_MODEL, &path).expect("a copy");
                expect.best = target;
                note(&expect);
            }
        }
        for &(updates, is_best) in &script.saves {
            step += updates;
            // A best that was made before a crash may be later still.
            expect.begun = expect.begun.max(step);
            note(&expect);
            // A run that makes updates again, its checkpoint decayed, keeps a best that is better.
            let best = known.valid(&memory.tree()).get(&Path::new(FOLDER).join(BEST_MODEL)).copied();
            let is_best = is_best && best.is_none_or(|best| best <= step);
            save(&mut store, step, &known.archive(step, branch), is_best, &script.retention).expect("a save");
            expect.reported = step;
            if is_best {
                expect.best = step;
            }
            note(&expect);
        }
        let operations = memory.operations();
        Session { operations, expectations }
    }

    /// What must hold after a crash once so many operations were made.
    pub fn expectation(&self, num_operations: usize) -> &Expectation {
        let at = self.expectations.partition_point(|(from, _)| *from <= num_operations);
        &self.expectations[at - 1].1
    }
}

/// A valid checkpoint to go back to.
fn earlier(tree: &Tree, known: &Known, back: usize) -> Option<u64> {
    let mut steps: Vec<u64> = known
        .valid(tree)
        .into_iter()
        .filter(|(path, _)| !path.ends_with(BEST_MODEL))
        .map(|(_, step)| step)
        .collect();
    steps.sort_unstable();
    steps.len().checked_sub(back + 1).map(|at| steps[at])
}

/// Contents below the folder, `superseded/` included.
pub fn contents(tree: &Tree) -> BTreeSet<u64> {
    let aside = Path::new(FOLDER).join(SUPERSEDED);
    let is_ours = |path: &Path| path.parent() == Some(Path::new(FOLDER)) || path.parent() == Some(&aside);
    tree.names.keys().filter(|path| is_ours(path)).filter_map(|path| tree.content(path)).map(hash).collect()
}
