//! What a training run tells whoever watches it.

use super::DiskShortage;
use keepstep::journal::{Evaluation, Sample, Update};
use keepstep::run::Notice;
use keepstep::store::StoreError;
use keepstep::{Checkpoint, Plan};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Receives the events of a run. Nothing that an observer does can reach the run's result.
///
/// Every method has an empty default, so that an observer names only what it shows.
#[expect(unused_variables, reason = "the defaults ignore their arguments")]
pub trait Observer: Send {
    /// The files of the corpus are being looked for: so many were found.
    fn listing(&mut self, num_files: u64) {}
    /// Text is being read, to know it again or to train a tokenizer: bytes done, of all.
    fn reading(&mut self, done_bytes: u64, total_bytes: u64) {}
    /// A tokenizer is being trained: the entries that its vocabulary has and will have.
    fn training_tokenizer(&mut self, done_entries: u64, total_entries: u64) {}
    /// Text is being encoded: bytes done, of all.
    fn tokenizing(&mut self, done_bytes: u64, total_bytes: u64) {}
    /// Something that is worth a line: a damaged file that was passed over, a cache that was rebuilt.
    fn note(&mut self, text: &str) {}
    /// A fact about how the run was opened.
    fn notice(&mut self, notice: &Notice) {
        self.note(&notice.to_string());
    }
    /// The disk may be too small for the run's checkpoints. Training begins all the same.
    fn short_of_disk(&mut self, shortage: &DiskShortage) {
        self.note(&shortage.to_string());
    }
    /// A save has failed, which `text` describes. Training continues.
    fn save_failed(&mut self, text: &str, error: &StoreError) {
        self.note(text);
    }
    /// Everything is checked and loaded, and nothing is trained yet.
    fn planned(&mut self, plan: &PlanReport) {}
    /// The run continues from a checkpoint.
    fn resumed(&mut self, report: &ResumeReport) {}
    /// One optimizer update is complete.
    fn updated(&mut self, update: &Update, epoch: &EpochReport) {}
    /// An evaluation goes on: batches done, of all.
    fn evaluating(&mut self, done_batches: u64, total_batches: u64) {}
    /// An evaluation is complete.
    fn evaluated(&mut self, evaluation: &Evaluation) {}
    /// A save has begun and goes on in the background; so long did training stand still for it, beside the
    /// time for which it waited for the save before, on a disk that does not keep up.
    fn saving(&mut self, stalled: Duration, waited: Duration) {}
    /// The session ends, and waits for its last checkpoint.
    fn finishing(&mut self) {}
    /// The model has written a text after an evaluation.
    fn sampled(&mut self, sample: &Sample) {}
    /// A checkpoint is durable and verified.
    fn saved(&mut self, path: &Path) {}
}

/// An observer that shows nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {}

/// The sizes of a run.
#[derive(Debug, Clone)]
pub struct PlanReport {
    /// Trainable scalars.
    pub num_parameters: u64,
    /// Tokens of the corpus, validation included.
    pub num_tokens: u64,
    /// Training windows.
    pub num_train_windows: u64,
    /// Validation windows.
    pub num_validation_windows: u64,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Micro-batches per epoch.
    pub steps_per_epoch: u64,
    /// Epochs of the whole run.
    pub epochs: u64,
    /// Optimizer updates of the whole run.
    pub total_steps: u64,
    /// Threads that compute.
    pub num_threads: usize,
    /// Where the checkpoints go.
    pub output_dir: PathBuf,
}

/// Where a run continues.
#[derive(Debug, Clone)]
pub struct ResumeReport {
    /// The checkpoint that was loaded.
    pub path: PathBuf,
    /// The epoch of the checkpoint.
    pub epoch: u64,
    /// Micro-batches completed in it.
    pub step: u64,
    /// Micro-batches of that epoch.
    pub steps_per_epoch: u64,
    /// Updates completed.
    pub global_step: u64,
    /// Mean training loss of that epoch so far.
    pub train_loss: Option<f64>,
    /// The last validation loss.
    pub val_loss: Option<f64>,
    /// Whether the run has nothing left to do.
    pub complete: bool,
}

impl ResumeReport {
    /// Of a checkpoint in `path`, which a run with this plan goes on from.
    pub fn new(path: &Path, checkpoint: &Checkpoint, plan: &Plan) -> ResumeReport {
        ResumeReport {
            path: path.to_path_buf(),
            epoch: checkpoint.position.epoch,
            step: checkpoint.position.step,
            steps_per_epoch: plan.steps_per_epoch,
            global_step: checkpoint.position.global_step,
            train_loss: checkpoint.metrics.train_loss(),
            val_loss: checkpoint.metrics.val_loss,
            complete: plan.next_update(checkpoint.position).is_none() && !checkpoint.pending,
        }
    }
}

/// How far an epoch has come after an update.
#[derive(Debug, Clone, Copy)]
pub struct EpochReport {
    /// Micro-batches per epoch.
    pub steps_per_epoch: u64,
    /// The step at which this epoch ends, or the run, where that comes first.
    pub last_step: u64,
    /// Mean loss of the epoch so far, all sessions included.
    pub epoch_loss: f64,
}
