//! Opening a run in two steps, finding the checkpoint and starting from it: a loop can do its own checks in between.

use super::remotes::fetch;
use super::{Notice, Policy, Resume, RunError};
use crate::checkpoint::Checkpoint;
use crate::store::{self, Candidates, Disk, Newest, Skipped, Source, Storage, Store};
use keepstep_pt::ReadError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A run that is not started: the checkpoint to continue from is known, and nothing has been written.
#[derive(Debug)]
pub struct RunBuilder {
    pub(super) folder: PathBuf,
    pub(super) policy: Policy,
    pub(super) storage: Arc<dyn Storage>,
    /// Holds the lock if the folder exists.
    pub(super) store: Option<Store>,
    pub(super) found: Option<Newest>,
    verification: Verification,
    pub(super) notes: Vec<Notice>,
    /// Files that came from the remote. If the run does not start, they are removed again.
    pub(super) fetched: Vec<PathBuf>,
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
}

/// Opens and locks the folder if it exists.
fn open_store(folder: &Path, storage: &Arc<dyn Storage>) -> Result<Option<Store>, RunError> {
    if storage.metadata(folder).is_err() {
        return Ok(None);
    }
    Ok(Some(Store::open(folder, Arc::clone(storage))?))
}
