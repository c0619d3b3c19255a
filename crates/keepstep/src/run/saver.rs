//! One save: the best, the checkpoint, rotation, in the order that loses nothing whatever happens in between.

use super::saves::Save;
use crate::checkpoint::{Ancestor, Checkpoint, Metrics, State};
use crate::identity::Identity;
use crate::journal::Syncer;
use crate::name::BEST_MODEL;
use crate::position::{Plan, Position};
use crate::store::{OpenError, Retention, Store, StoreError};
use keepstep_pt::{Archive, ReadError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// What every checkpoint of a run holds alike.
#[derive(Debug)]
pub(super) struct Constants {
    pub(super) identity: Identity,
    pub(super) plan: Plan,
    pub(super) origin: Position,
    pub(super) lineage: Vec<Ancestor>,
}

/// A run at one position. Its tensors may share the loop's buffers, so nobody changes those while this lives.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) position: Position,
    pub(super) state: State,
    pub(super) metrics: Metrics,
    pub(super) num_updates: u64,
    pub(super) pending: bool,
}

/// What is to be saved at a position.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) snapshot: Arc<Snapshot>,
    /// Whether it is the lowest validation loss so far.
    pub(super) is_new_best: bool,
    /// The checkpoint's name, where one is due.
    pub(super) name: Option<String>,
    /// What goes once the checkpoint is verified.
    pub(super) retention: Option<Retention>,
}

/// The only one that writes to the folder of a run.
#[derive(Debug)]
pub(super) struct Saver {
    store: Store,
    journal: Syncer,
    constants: Constants,
    /// The best, as long as it could not be made durable. No checkpoint is published before it is: what a checkpoint says
    /// of the best is true of the folder.
    owed: Option<Arc<Snapshot>>,
    /// What this process has put under the best's name.
    best: Option<Position>,
}

impl Saver {
    pub(super) fn new(store: Store, journal: Syncer, constants: Constants) -> Saver {
        Saver { store, journal, constants, owed: None, best: None }
    }

    pub(super) fn save(&mut self, job: Job) -> Save {
        let began = Instant::now();
        let journal_failure = self.journal.sync().err();
        let mut files = Vec::new();
        let position = job.snapshot.position;
        let result = self.publish(&job, &mut files);
        // The loop's buffers are free again before it is told.
        drop(job);
        Save { position, files, result, took: began.elapsed(), journal_failure }
    }

    fn publish(&mut self, job: &Job, files: &mut Vec<PathBuf>) -> Result<(), StoreError> {
        let snapshot = &job.snapshot;
        if job.is_new_best {
            self.owed = Some(Arc::clone(snapshot));
        }
        if let Some(best) = &self.owed {
            if !self.has_better_best(best)? {
                files.push(self.store.publish(BEST_MODEL, &self.archive(best))?);
                self.best = Some(best.position);
            }
            self.owed = None;
        }
        let Some(name) = &job.name else { return Ok(()) };
        files.push(if self.best == Some(snapshot.position) && !snapshot.pending {
            self.store.publish_link(name, BEST_MODEL)?
        } else {
            self.store.publish(name, &self.archive(snapshot))?
        });
        match &job.retention {
            Some(retention) => self.store.rotate(retention, snapshot.position.global_step),
            None => Ok(()),
        }
    }

    /// Whether the folder has a better best of this run: one from a later place, while updates are made again. What cannot
    /// be read is not replaced.
    fn has_better_best(&self, snapshot: &Snapshot) -> Result<bool, StoreError> {
        let path = self.store.folder().join(BEST_MODEL);
        let (file, there) = match crate::store::open(&**self.store.storage(), &path) {
            Ok(opened) => opened,
            Err(OpenError::Read(source @ ReadError::Io { .. })) => {
                return Err(StoreError::Unreadable { path, source });
            }
            Err(_) => return Ok(false),
        };
        let better = there.metrics.best.zip(snapshot.metrics.best).is_some_and(|(there, here)| {
            there.val_loss < here.val_loss && there.position.global_step > here.position.global_step
        });
        let Constants { identity, origin, lineage, .. } = &self.constants;
        let same_run = there.identity == *identity && there.origin == *origin && there.lineage == *lineage;
        if !better || !same_run {
            return Ok(false);
        }
        match file.verify() {
            Ok(_) => Ok(true),
            Err(source @ ReadError::Io { .. }) => Err(StoreError::Unreadable { path, source }),
            Err(_) => Ok(false),
        }
    }

    fn archive(&self, snapshot: &Snapshot) -> Archive {
        let Constants { identity, plan, origin, lineage } = &self.constants;
        let checkpoint = Checkpoint {
            position: snapshot.position,
            state: snapshot.state.clone(),
            metrics: snapshot.metrics,
            identity: identity.clone(),
            plan: *plan,
            origin: *origin,
            num_updates: snapshot.num_updates,
            pending: snapshot.pending,
            lineage: lineage.clone(),
        };
        Archive::new(&checkpoint.to_value())
    }
}
