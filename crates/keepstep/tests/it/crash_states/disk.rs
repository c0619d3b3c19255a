//! The disk after a crash: every state that the operations so far allow.
//!
//! The model is weaker than ext4's, XFS's or APFS's, so that what holds here holds there:
//!
//! - **Names.** Creating, linking, renaming and removing change entries of a folder. Entries that no later sync of their
//!   folder covers are there after a crash or not, each by itself and whatever the order in which they were made.
//!   One thing is assumed of a rename: its old name is not gone unless its new one is there (both may be).
//!   Syncing a file does not make its name durable, and a new folder is an entry of its parent like any other.
//! - **Data.** What a sync of the file covers is safe. Of the rest, each sector of 512 bytes is there or not, by itself:
//!   if not, it holds what it held before (zeros where the file did not reach) or what another file once had there.
//!   The size lies anywhere between the last durable one and the newest: it may come before its data, or after.
//! - Whoever kills a process alone changes nothing: the next one sees everything, and nothing more of it is durable.

use crate::support::random::Random;
use keepstep::testing::{FileId, Operation, Tree};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SECTOR: usize = 512;

/// What is durable, what is not yet, and what processes see.
#[derive(Debug, Clone)]
pub struct Disk {
    durable: Tree,
    live: Tree,
    pending: Vec<Change>,
    /// Files with data that no sync covers.
    unsynced: Vec<FileId>,
    num_changes: usize,
}

/// A change of one entry.
#[derive(Debug, Clone)]
struct Change {
    serial: usize,
    /// The change without which this one does not happen.
    needs: Option<usize>,
    path: PathBuf,
    effect: Effect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Folder,
    Set(FileId),
    Clear,
}

/// How many outcomes of one instant are looked at, where there are more.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of the names.
    pub names: u64,
    /// Of the data of the files that they lead to.
    pub data: u64,
}

impl Disk {
    /// A disk on which all of this is durable.
    pub fn of(tree: Tree) -> Disk {
        Disk { durable: tree.clone(), live: tree, pending: Vec::new(), unsynced: Vec::new(), num_changes: 0 }
    }

    /// What processes see.
    pub fn live(&self) -> &Tree {
        &self.live
    }

    /// Goes on by one operation.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateFolder { path } => _ = self.push(path, Effect::Folder, None),
            Operation::Create { path, file } => {
                self.push(path, Effect::Set(*file), None);
                self.unsynced.push(*file);
                self.durable.contents.insert(*file, Arc::default());
            }
            Operation::Write { file, .. } => {
                if !self.unsynced.contains(file) {
                    self.unsynced.push(*file);
                }
            }
            Operation::Sync { file } => {
                self.unsynced.retain(|other| other != file);
                self.durable.contents.insert(*file, Arc::clone(&self.live.contents[file]));
            }
            Operation::Rename { from, to, file } => {
                if self.live.names.get(to) != Some(file) {
                    let set = self.push(to, Effect::Set(*file), None);
                    self.push(from, Effect::Clear, Some(set));
                }
            }
            Operation::Link { path, file } => _ = self.push(path, Effect::Set(*file), None),
            Operation::Remove { path } => _ = self.push(path, Effect::Clear, None),
            Operation::SyncFolder { path } => self.sync_folder(path),
        }
        self.live.apply(operation);
    }

    fn push(&mut self, path: &Path, effect: Effect, needs: Option<usize>) -> usize {
        let serial = self.num_changes;
        self.num_changes += 1;
        self.pending.push(Change { serial, needs, path: path.to_path_buf(), effect });
        serial
    }

    fn sync_folder(&mut self, folder: &Path) {
        let covered = |change: &Change| change.path.parent() == Some(folder);
        let needed: Vec<usize> =
            self.pending.iter().filter(|change| covered(change)).filter_map(|change| change.needs).collect();
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            if covered(&change) || needed.contains(&change.serial) {
                put(&mut self.durable, &change);
            } else {
                left.push(change);
            }
        }
        self.pending = left;
    }

    /// Shows each state in which a loss of power now may leave the disk. Where there are more than the limits allow, a
    /// random part of them.
    pub fn crashes(&self, limits: Limits, random: &mut Random, visit: &mut dyn FnMut(Tree)) {
        for chosen in choices(self.pending.len(), limits.names, random) {
            let Some(names) = self.with_changes(&chosen) else { continue };
            let reached: Vec<FileId> = {
                let reaches = |file: &&FileId| names.names.values().any(|other| other == *file);
                self.unsynced.iter().filter(reaches).copied().collect()
            };
            if reached.is_empty() {
                visit(names);
                continue;
            }
            for file in &reached {
                let (before, after) = (&self.durable.contents[file], &self.live.contents[file]);
                let num_sectors = after.len().div_ceil(SECTOR);
                let mut sizes: Vec<usize> = (before.len()..after.len()).step_by(SECTOR).collect();
                sizes.extend([after.len().saturating_sub(1).max(before.len()), after.len()]);
                let all = limits.data / sizes.len() as u64;
                for sectors in choices(num_sectors, all.max(1), random) {
                    for &size in &sizes {
                        let mut tree = names.clone();
                        // Other unsynced files take a random state beside it.
                        for other in &reached {
                            let content = if other == file {
                                torn(before, after, &sectors, size, None)
                            } else {
                                self.random_data(*other, random)
                            };
                            tree.contents.insert(*other, Arc::new(content));
                        }
                        visit(tree);
                    }
                }
                // And what the disk held before the file was there.
                for _ in 0..limits.data.div_ceil(8) {
                    let mut tree = names.clone();
                    for other in &reached {
                        tree.contents.insert(*other, Arc::new(self.random_data(*other, random)));
                    }
                    visit(tree);
                }
            }
        }
    }

    /// One of those states.
    pub fn crash(&self, random: &mut Random) -> Tree {
        let mut states = Vec::new();
        self.crashes(Limits { names: 16, data: 16 }, random, &mut |tree| states.push(tree));
        let at = random.below(states.len() as u64) as usize;
        states.swap_remove(at)
    }

    fn random_data(&self, file: FileId, random: &mut Random) -> Vec<u8> {
        let (before, after) = (&self.durable.contents[&file], &self.live.contents[&file]);
        let sectors: Vec<bool> = (0..after.len().div_ceil(SECTOR)).map(|_| random.once_in(2)).collect();
        let size = before.len() + random.below((after.len() - before.len()) as u64 + 1) as usize;
        let others: Vec<&Arc<Vec<u8>>> = self.durable.contents.values().collect();
        let stale = others[random.below(others.len() as u64) as usize];
        let size = if random.once_in(2) { after.len() } else { size };
        torn(before, after, &sectors, size, random.once_in(2).then_some(stale))
    }

    /// The tree after these of the pending changes; None where one lacks what it needs.
    fn with_changes(&self, chosen: &[bool]) -> Option<Tree> {
        let mut tree = self.durable.clone();
        let is_chosen = |serial: usize| {
            let at = self.pending.iter().position(|change| change.serial == serial);
            at.is_none_or(|at| chosen[at])
        };
        for (change, _) in self.pending.iter().zip(chosen).filter(|(_, chosen)| **chosen) {
            if change.needs.is_some_and(|serial| !is_chosen(serial)) {
                return None;
            }
            put(&mut tree, change);
        }
        // What lies in a folder that is not there is not there.
        let folders = tree.folders.clone();
        let there = |path: &Path| path.ancestors().skip(1).all(|folder| folders.contains(folder));
        tree.folders.retain(|path| there(path));
        tree.names.retain(|path, _| there(path));
        let named: Vec<FileId> = tree.names.values().copied().collect();
        tree.contents.retain(|file, _| named.contains(file));
        Some(tree)
    }
}

fn put(tree: &mut Tree, change: &Change) {
    match change.effect {
        Effect::Folder => _ = tree.folders.insert(change.path.clone()),
        Effect::Set(file) => _ = tree.names.insert(change.path.clone(), file),
        Effect::Clear => _ = tree.names.remove(&change.path),
    }
}

/// A file of `size` bytes of which these sectors were written and the others were not.
fn torn(before: &[u8], after: &[u8], sectors: &[bool], size: usize, stale: Option<&Arc<Vec<u8>>>) -> Vec<u8> {
    let mut content = vec![0; size];
    let old = stale.map_or(before, |stale| stale.as_slice());
    for (index, written) in sectors.iter().enumerate() {
        let from = if *written { after } else { old };
        let (start, end) = (index * SECTOR, ((index + 1) * SECTOR).min(size).min(from.len()));
        if start < end {
            content[start..end].copy_from_slice(&from[start..end]);
        }
    }
    content
}

/// Every way to choose among `count` things, or `limit` of them where there are more: with none, all, all up to each,
/// and random ones.
fn choices(count: usize, limit: u64, random: &mut Random) -> Vec<Vec<bool>> {
    if count < 63 && 1_u64 << count <= limit {
        let every = 0..1_u64 << count;
        return every.map(|bits| (0..count).map(|index| bits >> index & 1 == 1).collect()).collect();
    }
    let mut chosen: Vec<Vec<bool>> =
        (0..=count).map(|end| (0..count).map(|index| index < end).collect()).collect();
    while (chosen.len() as u64) < limit {
        chosen.push((0..count).map(|_| random.once_in(2)).collect());
    }
    // All of it and nothing come first.
    let last = chosen.remove(count);
    chosen.insert(0, last);
    chosen.truncate(limit.max(1) as usize);
    chosen
}
