//! Opening a run in two steps, finding the checkpoint and starting from it: a loop can do its own checks in between.

use super::compare::compare;
use super::remotes::{attach, fetch};
use super::replay::Replay;
use super::saver::Saver;
use super::writer::Writer;
use super::{Notice, Policy, Resume, Run, RunError, Status};
use crate::checkpoint::{Checkpoint, Metrics, run_id};
use crate::identity::Identity;
use crate::journal::{self, JOURNAL, Journal};
use crate::name::BEST_MODEL;
use crate::position::{Length, Plan, Position};
use crate::store::{self, Candidates, Disk, Newest, Skipped, Source, Storage, Store};
use keepstep_pt::ReadError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A run that is not started: the checkpoint to continue from is known, and nothing has been written.
#[derive(Debug)]
pub struct RunBuilder {
    folder: PathBuf,
    policy: Policy,
    storage: Arc<dyn Storage>,
    /// Holds the lock if the folder exists.
    store: Option<Store>,
    found: Option<Newest>,
    verification: Verification,
    notes: Vec<Notice>,
    /// Files that came from the remote. If the run does not start, they are removed again.
    fetched: Vec<PathBuf>,
}

impl Drop for RunBuilder {
    fn drop(&mut self) {
        for path in &self.fetched {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// When the bytes of the checkpoint's tensors are verified.
#[derive(Debug)]
enum Verification {
    /// Before the checkpoint is chosen.
    AtOnce,
    /// While it is loaded. These files were found damaged then.
    Later(Vec<Skipped>),
}

/// The sizes of a run that a training loop determines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sizes {
    /// Micro-batches per epoch, at least 1.
    pub steps_per_epoch: u64,
    /// Micro-batches per optimizer update, at least 1.
    pub gradient_accumulation_steps: u64,
    /// The length of the run.
    pub length: Length,
}

impl Sizes {
    /// Trains whole epochs, with one micro-batch per update.
    pub fn new(steps_per_epoch: u64, epochs: u64) -> Sizes {
        let length = Length { epochs, total_steps: None };
        Sizes { steps_per_epoch, gradient_accumulation_steps: 1, length }
    }

    /// Sets the number of micro-batches per update.
    #[must_use]
    pub fn with_gradient_accumulation(self, gradient_accumulation_steps: u64) -> Sizes {
        Sizes { gradient_accumulation_steps, ..self }
    }

    /// Ends the run at this global step, even within an epoch.
    #[must_use]
    pub fn with_total_steps(self, total_steps: Option<u64>) -> Sizes {
        Sizes { length: Length { total_steps, ..self.length }, ..self }
    }
}

impl RunBuilder {
    /// Finds the checkpoint to continue from. Locks the folder if it exists.
    ///
    /// # Errors
    /// Another process trains into the folder, the source is missing, or all checkpoints are damaged.
    pub fn open(folder: &Path, policy: Policy) -> Result<RunBuilder, RunError> {
        RunBuilder::open_on(folder, policy, Arc::new(Disk))
    }

    /// Finds the checkpoint without writing anything: neither locks the folder nor removes leftover files. Use it to
    /// report what a run would do.
    ///
    /// # Errors
    /// See [`RunBuilder::open`].
    pub fn inspect(folder: &Path, policy: Policy) -> Result<RunBuilder, RunError> {
        RunBuilder::find(folder, policy, Arc::new(Disk), None, Verification::AtOnce)
    }

    /// Does the same as [`RunBuilder::open`] on a storage other than the disk.
    ///
    /// # Errors
    /// See [`RunBuilder::open`].
    pub fn open_on(folder: &Path, policy: Policy, storage: Arc<dyn Storage>) -> Result<RunBuilder, RunError> {
        RunBuilder::open_with(folder, policy, storage, Verification::AtOnce)
    }

    /// Does the same as [`RunBuilder::open_on`] without reading the bytes of the checkpoint's tensors. Loading them
    /// compares their checksums on the way, so each byte is read once. Before [`RunBuilder::start`], call
    /// [`RunBuilder::verify_rest`]; if that or loading finds damage, look for an older checkpoint with
    /// [`RunBuilder::without_damaged`].
    ///
    /// # Errors
    /// See [`RunBuilder::open`].
    pub fn open_to_verify_later(
        folder: &Path,
        policy: Policy,
        storage: Arc<dyn Storage>,
    ) -> Result<RunBuilder, RunError> {
        RunBuilder::open_with(folder, policy, storage, Verification::Later(Vec::new()))
    }

    fn open_with(
        folder: &Path,
        mut policy: Policy,
        storage: Arc<dyn Storage>,
        verification: Verification,
    ) -> Result<RunBuilder, RunError> {
        let mut store = open_store(folder, &storage)?;
        let fetched = fetch(folder, &mut policy, &storage, &mut store)?;
        let mut builder = RunBuilder::find(folder, policy, storage, store, verification)?;
        builder.notes.extend(fetched.notes.iter().map(|text| Notice::Remote { text: text.clone() }));
        builder.fetched = fetched.files;
        Ok(builder)
    }

    /// Verifies what loading has not read of the checkpoint.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn verify_rest(&self) -> Result<(), ReadError> {
        self.found.as_ref().map_or(Ok(()), |found| found.file.verify_rest().map(drop))
    }

    /// Looks for an older checkpoint, because `error` shows that this one is damaged. The folder stays locked.
    ///
    /// # Errors
    /// No other checkpoint is valid.
    pub fn without_damaged(mut self, error: &ReadError) -> Result<RunBuilder, RunError> {
        let mut damaged = match std::mem::replace(&mut self.verification, Verification::AtOnce) {
            Verification::Later(damaged) => damaged,
            Verification::AtOnce => Vec::new(),
        };
        damaged.extend(self.found.take().map(|found| Skipped::new(found.path, error)));
        let (policy, storage, store) = (self.policy.clone(), Arc::clone(&self.storage), self.store.take());
        let mut builder =
            RunBuilder::find(&self.folder, policy, storage, store, Verification::Later(damaged))?;
        builder.notes.extend(self.notes.drain(..).filter(|note| matches!(note, Notice::Remote { .. })));
        builder.fetched = std::mem::take(&mut self.fetched);
        Ok(builder)
    }

    fn find(
        folder: &Path,
        policy: Policy,
        storage: Arc<dyn Storage>,
        store: Option<Store>,
        verification: Verification,
    ) -> Result<RunBuilder, RunError> {
        let (source, source_only) = match &policy.resume {
            Resume::Newest(source) => (source.clone(), false),
            Resume::Rewind(Source::None) => return Err(RunError::RewindNeedsCheckpoint),
            Resume::Rewind(source) => (source.clone(), true),
            Resume::Never => (Source::None, false),
        };
        let mut candidates = Candidates::new(folder).with_source(&source).with_source_only(source_only);
        if let Verification::Later(damaged) = &verification {
            candidates = candidates.verifying_later(damaged);
        }
        let found = store::find(&*storage, &candidates)?;
        if policy.resume == Resume::Never && found.is_some() {
            return Err(RunError::NotEmpty { folder: folder.to_path_buf() });
        }
        let mut notes = Vec::new();
        if let Some(found) = &found {
            notes.extend(found.skipped.iter().cloned().map(Notice::Skipped));
            if let Source::Path(path) = &source
                && !found.path.starts_with(path)
            {
                let (path, source) = (found.path.clone(), path.clone());
                notes.push(Notice::LaterThanSource { path, source });
            }
        }
        let fetched = Vec::new();
        let folder = folder.to_path_buf();
        Ok(RunBuilder { folder, policy, storage, store, found, verification, notes, fetched })
    }

    /// Returns the checkpoint that the run would continue from.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.found.as_ref().map(|found| &found.checkpoint)
    }

    /// Returns the file of that checkpoint.
    pub fn path(&self) -> Option<&Path> {
        self.found.as_ref().map(|found| found.path.as_path())
    }

    /// Returns facts for people about what was found.
    pub fn notes(&self) -> &[Notice] {
        &self.notes
    }

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

/// Opens and locks the folder if it exists.
fn open_store(folder: &Path, storage: &Arc<dyn Storage>) -> Result<Option<Store>, RunError> {
    if storage.metadata(folder).is_err() {
        return Ok(None);
    }
    Ok(Some(Store::open(folder, Arc::clone(storage))?))
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
