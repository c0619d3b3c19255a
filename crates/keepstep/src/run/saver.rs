//! One save: the best model, the checkpoint, rotation. In this order a crash in between loses nothing.

use super::saves::Save;
use crate::checkpoint::Checkpoint;
use crate::journal::Syncer;
use crate::name::BEST_MODEL;
use crate::position::Position;
use crate::store::{OpenError, Retention, Store, StoreError};
use keepstep_pt::{Archive, ReadError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// A checkpoint to save. Its tensors may share the loop's buffers, which must not change until the job is dropped.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) checkpoint: Arc<Checkpoint>,
    /// Whether it is the best so far.
    pub(super) is_new_best: bool,
    /// The checkpoint's name, if one is due.
    pub(super) name: Option<String>,
    /// Which checkpoints to keep after this one is verified.
    pub(super) retention: Option<Retention>,
}

/// Writes checkpoints to the folder of a run. Nothing else does.
#[derive(Debug)]
pub(super) struct Saver {
    store: Store,
    journal: Syncer,
    /// The best model, if saving it failed. No checkpoint is published before that succeeds, so a checkpoint never
    /// refers to a best model that is not on the disk.
    unsaved_best: Option<Arc<Checkpoint>>,
    /// The best model that this process has published: its position, and the reason if the loop had ended the run
    /// there.
    published_best: Option<(Position, Option<String>)>,
}

impl Saver {
    pub(super) fn new(store: Store, journal: Syncer) -> Saver {
        Saver { store, journal, unsaved_best: None, published_best: None }
    }

    pub(super) fn save(&mut self, job: Job) -> Save {
        let began = Instant::now();
        let journal_failure = self.journal.sync().err();
        let mut files = Vec::new();
        let position = job.checkpoint.position;
        let result = self.publish(&job, &mut files);
        // Free the loop's buffers before the save is reported.
        drop(job);
        Save { position, files, result, took: began.elapsed(), journal_failure }
    }

    fn publish(&mut self, job: &Job, files: &mut Vec<PathBuf>) -> Result<(), StoreError> {
        let checkpoint = &job.checkpoint;
        if job.is_new_best {
            self.unsaved_best = Some(Arc::clone(checkpoint));
        }
        if let Some(best) = &self.unsaved_best {
            if !self.has_better_best(best)? {
                let archive = self.archive(BEST_MODEL, best)?;
                files.push(self.store.publish(BEST_MODEL, &archive)?);
                self.published_best = Some((best.position, best.stopped.clone()));
            }
            self.unsaved_best = None;
        }
        let Some(name) = &job.name else { return Ok(()) };
        let is_best = self.published_best.as_ref().is_some_and(|(position, stopped)| {
            *position == checkpoint.position && *stopped == checkpoint.stopped && !checkpoint.pending
        });
        files.push(if is_best {
            self.store.publish_link(name, BEST_MODEL)?
        } else {
            self.store.publish(name, &self.archive(name, checkpoint)?)?
        });
        match &job.retention {
            Some(retention) => self.store.rotate(retention, checkpoint.position.global_step),
            None => Ok(()),
        }
    }

    /// Reports whether the folder has a better best model of this run, from a later position: that happens while
    /// updates are repeated. A file that cannot be read is not replaced.
    fn has_better_best(&self, checkpoint: &Checkpoint) -> Result<bool, StoreError> {
        let path = self.store.folder().join(BEST_MODEL);
        let (file, there) = match crate::store::open(&**self.store.storage(), &path) {
            Ok(opened) => opened,
            Err(OpenError::Read(source @ ReadError::Io { .. })) => {
                return Err(StoreError::Unreadable { path, source });
            }
            Err(_) => return Ok(false),
        };
        let is_better = there.metrics.best.zip(checkpoint.metrics.best).is_some_and(|(there, here)| {
            checkpoint.objective.is_better(there.value, Some(here.value))
                && there.position.global_step > here.position.global_step
        });
        if !is_better || !there.is_same_run(checkpoint) {
            return Ok(false);
        }
        match file.verify() {
            Ok(_) => Ok(true),
            Err(source @ ReadError::Io { .. }) => Err(StoreError::Unreadable { path, source }),
            Err(_) => Ok(false),
        }
    }

    /// Refuses values that would not be read back unchanged.
    fn archive(&self, name: &str, checkpoint: &Checkpoint) -> Result<Archive, StoreError> {
        let value = checkpoint.to_value();
        value
            .check_storable()
            .map_err(|source| StoreError::NotStorable { path: self.store.folder().join(name), source })?;
        Ok(Archive::new(&value))
    }
}
