//! New runs that start from another run's checkpoint, with changed settings.

use crate::checkpoint::{Ancestor, Checkpoint, Metrics};
use crate::identity::Identity;
use crate::name::checkpoint_name;
use crate::position::{Plan, Position};
use crate::store::{Disk, Store, StoreError};
use keepstep_pt::Archive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// A branch that cannot be made. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BranchError {
    /// The new run's folder is in use.
    #[error("{folder}: the new run's folder must be empty or not exist yet")]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// An evaluation is due at the checkpoint and was not made. It belongs to the old run.
    #[error("an evaluation is due at this checkpoint and was not made")]
    Pending,
    /// The change needs whole epochs.
    #[error(
        "the batch size and the corpus can change only at an epoch's end, and the checkpoint is at {position}"
    )]
    WithinEpoch {
        /// The position of the checkpoint.
        position: Position,
    },
    /// The step is no update boundary with the new gradient accumulation.
    #[error(
        "step {step} lies inside a window of the new gradient_accumulation_steps = {gradient_accumulation_steps}"
    )]
    InsideWindow {
        /// The step.
        step: u64,
        /// The new accumulation.
        gradient_accumulation_steps: u64,
    },
    /// The new run's folder cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Publishes, in `folder`, the first checkpoint of a new run with this identity and these sizes. Model, optimizer and
/// scheduler state and the counters are kept, and so are the running totals except the best evaluation. The old run is
/// recorded as an ancestor.
///
/// # Errors
/// See [`BranchError`].
pub fn branch(
    parent: Checkpoint,
    identity: Identity,
    plan: Plan,
    folder: &Path,
) -> Result<PathBuf, BranchError> {
    refuse_used(folder)?;
    if parent.pending {
        return Err(BranchError::Pending);
    }
    let at = parent.position;
    let same_sizes = plan.steps_per_epoch == parent.plan.steps_per_epoch
        && plan.gradient_accumulation_steps == parent.plan.gradient_accumulation_steps;
    let ends_epoch = at.step == parent.plan.steps_per_epoch;
    let (origin, position) = if same_sizes {
        (parent.origin, at)
    } else if ends_epoch {
        let end = Position { step: plan.steps_per_epoch, ..at };
        (end, end)
    } else if plan.steps_per_epoch != parent.plan.steps_per_epoch {
        return Err(BranchError::WithinEpoch { position: at });
    } else if plan.is_boundary(at.step) {
        (at, at)
    } else {
        let gradient_accumulation_steps = plan.gradient_accumulation_steps;
        return Err(BranchError::InsideWindow { step: at.step, gradient_accumulation_steps });
    };
    let mut lineage = parent.lineage;
    lineage.push(Ancestor {
        position: at,
        config: parent.identity.config.clone(),
        seed: parent.identity.seed,
    });
    let metrics = Metrics { best: None, ..parent.metrics };
    let checkpoint = Checkpoint { position, metrics, identity, plan, origin, lineage, ..parent };
    begin(&checkpoint, folder)
}

/// Publishes the first checkpoint of a run in an empty folder.
///
/// # Errors
/// The folder is in use, or cannot be written.
pub fn begin(checkpoint: &Checkpoint, folder: &Path) -> Result<PathBuf, BranchError> {
    refuse_used(folder)?;
    let name = checkpoint_name(&checkpoint.plan, checkpoint.position);
    let archive = Archive::new(&checkpoint.to_value());
    Ok(Store::open(folder, Arc::new(Disk))?.publish(&name, &archive)?)
}

fn refuse_used(folder: &Path) -> Result<(), BranchError> {
    // A failed attempt may leave the lock's file or a temporary file.
    let is_hidden = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."))
    };
    let is_empty = std::fs::read_dir(folder).map_or(true, |mut entries| entries.all(is_hidden));
    if is_empty { Ok(()) } else { Err(BranchError::NotEmpty { folder: folder.to_path_buf() }) }
}
