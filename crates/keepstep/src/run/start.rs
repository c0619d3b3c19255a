//! Starting a run from the checkpoint that was found.

use super::builder::RunBuilder;
use super::compare::compare;
use super::remotes::attach;
use super::replay::Replay;
use super::saver::Saver;
use super::writer::Writer;
use super::{Notice, Resume, Run, RunError, Sizes, Status};
use crate::checkpoint::{Metrics, run_id};
use crate::identity::Identity;
use crate::journal::{self, JOURNAL, Journal};
use crate::name::BEST_MODEL;
use crate::position::{Plan, Position};
use crate::store::{self, Disk, Newest, Store};
use std::path::Path;
use std::sync::Arc;

impl RunBuilder {
    /// Compares the checkpoint with the loop's identity and sizes, and returns the plan of the run. Writes nothing.
    ///
    /// # Errors
    /// The checkpoint belongs to another run.
    pub fn check(&self, identity: &Identity, sizes: Sizes) -> Result<Plan, RunError> {
        let origin = self.found.as_ref().map_or(Position::START, |found| found.checkpoint.origin);
        let plan = Plan::new(sizes.steps_per_epoch, sizes.gradient_accumulation_steps, sizes.length, origin);
        if let Some(found) = &self.found {
            compare(found, identity, &plan, &self.policy, &mut Vec::new())?;
        }
        Ok(plan)
    }

    /// Compares the checkpoint with the loop's identity and sizes, and starts the run.
    ///
    /// # Errors
    /// The checkpoint belongs to another run, or the folder cannot be used.
    pub fn start(mut self, identity: Identity, sizes: Sizes) -> Result<Run, RunError> {
        let (folder, policy, storage) = (self.folder.clone(), self.policy.clone(), Arc::clone(&self.storage));
        let (store, found, mut notes) =
            (self.store.take(), self.found.take(), std::mem::take(&mut self.notes));
        let mut identity = identity;
        let origin = found.as_ref().map_or(Position::START, |found| found.checkpoint.origin);
        let plan = Plan::new(sizes.steps_per_epoch, sizes.gradient_accumulation_steps, sizes.length, origin);
        if let Some(found) = &found {
            compare(found, &identity, &plan, &policy, &mut notes)?;
            // They may differ in the order of their keys, on which the bytes of later checkpoints depend.
            identity = identity.in_order_of(&found.checkpoint.identity);
        }
        identity.check_storable().map_err(|source| RunError::Identity { source })?;
        let mut store = match store {
            Some(store) => store,
            None => Store::open(&folder, storage)?,
        };
        notes.extend(store.missing_operations().into_iter().map(|missing| Notice::FileSystem { missing }));
        if let (Some(found), Resume::Rewind(_)) = (&found, &policy.resume) {
            for path in store.supersede(found.checkpoint.position.global_step)? {
                notes.push(Notice::Moved { path });
            }
        }
        if let Some(found) = &found {
            bring_best(&mut store, found, &mut notes)?;
        }
        if let Some(source) = found.as_ref().and_then(|found| found.path.parent())
            && let Err(error) = journal::carry(source, &folder)
        {
            let (path, reason) = (source.join(JOURNAL), error.to_string());
            notes.push(Notice::JournalNotCopied { path, folder: folder.clone(), reason });
        }
        let lineage = found.as_ref().map(|found| found.checkpoint.lineage.clone()).unwrap_or_default();
        let (digest, id) = (identity.digest(), run_id(&identity, origin, &lineage));
        let position = found.as_ref().map_or(Position::START, |found| found.checkpoint.position);
        let mirroring = attach(&policy, &id, &folder, position)?;
        self.fetched.clear();
        let unusable = |source| RunError::Journal { path: folder.join(JOURNAL), source };
        let journal = Journal::open(&folder).map_err(unusable)?;
        let syncer = journal.syncer().map_err(unusable)?;
        let resumed = found.map(|found| (found.path, found.checkpoint));
        let (metrics, num_updates, pending, stopped) = match &resumed {
            Some((_, checkpoint)) => (
                checkpoint.metrics.clone(),
                checkpoint.num_updates,
                checkpoint.pending,
                checkpoint.stopped.clone(),
            ),
            None => (Metrics::default(), 0, false, None),
        };
        let storage = Arc::clone(store.storage());
        let saver = Saver::new(store, syncer);
        let writer = Writer::start(saver).map_err(|source| RunError::Writer { source })?;
        let replay = Replay::new(journal::updates_after(&folder, position.global_step, &digest));
        Run::begin(Run {
            identity,
            lineage,
            digest,
            plan,
            policy,
            origin,
            storage,
            writer,
            ended: Vec::new(),
            journal,
            last_saved: resumed.as_ref().map(|(path, _)| path.clone()),
            resumed,
            notes,
            position,
            metrics,
            num_updates,
            evaluation_due: pending,
            is_new_best: false,
            unsaved: pending,
            stopped,
            status: Status::new(&id, &plan, position),
            id,
            journal_failure: None,
            replay,
            replayed: None,
            is_replay: false,
            mirroring,
            push_until: None,
            folder,
        })
    }
}

/// Copies the run's best model into the folder if it is missing there and can be found.
fn bring_best(store: &mut Store, found: &Newest, notes: &mut Vec<Notice>) -> Result<(), RunError> {
    let Some(best) = found.checkpoint.metrics.best else { return Ok(()) };
    let is_it = |path: &Path| {
        let Ok((file, checkpoint)) = store::open(&Disk, path) else { return false };
        checkpoint.position == best.position
            && !checkpoint.pending
            && checkpoint.is_same_run(&found.checkpoint)
            && file.verify().is_ok()
    };
    let own = store.folder().join(BEST_MODEL);
    let existing = store::open(&**store.storage(), &own).ok().map(|(_, checkpoint)| checkpoint);
    let existing = existing.filter(|checkpoint| checkpoint.is_same_run(&found.checkpoint));
    // A later best model is better: repeated updates will reach it.
    if existing.as_ref().is_some_and(|existing| existing.position.global_step >= best.position.global_step) {
        return Ok(());
    }
    let neighbor = found.path.with_file_name(BEST_MODEL);
    for candidate in [neighbor, found.path.clone()] {
        if is_it(&candidate) {
            let path = store.publish_copy(BEST_MODEL, &candidate)?;
            notes.push(Notice::CopiedBest { path });
            return Ok(());
        }
    }
    let present = existing.and_then(|existing| Some((existing.position, existing.metrics.best?.value)));
    let objective = found.checkpoint.objective.clone();
    notes.push(Notice::NoBest { position: best.position, objective, value: best.value, path: own, present });
    Ok(())
}
