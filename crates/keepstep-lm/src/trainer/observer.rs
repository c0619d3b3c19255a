//! The events of a training run.

use super::DiskShortage;
use keepstep::journal::{Evaluation, Sample, Update};
use keepstep::remote::PushReport;
use keepstep::run::Notice;
use keepstep::store::StoreError;
use keepstep::{Checkpoint, Plan};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Receives the events of a run. An observer cannot affect the run's result.
///
/// Every method has an empty default. An observer implements only the events that it shows.
#[expect(unused_variables, reason = "the defaults ignore their arguments")]
pub trait Observer: Send {
    /// Files of the corpus are being searched. `num_files` were found so far.
    fn listing(&mut self, num_files: u64) {}
    /// Text is being read, to hash it or to train a tokenizer.
    fn reading(&mut self, done_bytes: u64, total_bytes: u64) {}
    /// A tokenizer is being trained: the current and the final size of its vocabulary.
    fn training_tokenizer(&mut self, done_entries: u64, total_entries: u64) {}
    /// Text is being encoded.
    fn tokenizing(&mut self, done_bytes: u64, total_bytes: u64) {}
    /// A message for the user: for example, a damaged file was skipped, or a cache was created again.
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
    /// Training has waited for the disk, as `text` describes. Only the first such wait of a session is reported.
    fn slow_disk(&mut self, text: &str) {
        self.note(text);
    }
    /// Everything is checked and loaded. Training begins next.
    fn planned(&mut self, plan: &PlanReport) {}
    /// The run continues from a checkpoint.
    fn resumed(&mut self, report: &ResumeReport) {}
    /// One optimizer update is complete.
    fn updated(&mut self, update: &Update, epoch: &EpochReport) {}
    /// An evaluation is running.
    fn evaluating(&mut self, done_batches: u64, total_batches: u64) {}
    /// An evaluation is complete.
    fn evaluated(&mut self, evaluation: &Evaluation) {}
    /// A save has begun and continues in the background. Training stalled for `stalled`. In addition, it waited for
    /// `waited` until the previous save was done, if the disk is too slow.
    fn saving(&mut self, stalled: Duration, waited: Duration) {}
    /// The session is ending and waits for its last checkpoint.
    fn finishing(&mut self) {}
    /// The model has written a text after an evaluation.
    fn sampled(&mut self, sample: &Sample) {}
    /// A checkpoint is durable and verified.
    fn saved(&mut self, path: &Path) {}
    /// Something has happened to the copy in the other place.
    fn push_report(&mut self, report: &PushReport) {
        self.note(&report.to_string());
    }
}

/// An observer that ignores all events.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {}

/// The sizes of a run.
#[derive(Debug, Clone)]
pub struct PlanReport {
    /// The number of trainable parameters.
    pub num_parameters: u64,
    /// The number of tokens in the corpus, including validation.
    pub num_tokens: u64,
    /// The number of training windows.
    pub num_train_windows: u64,
    /// The number of validation windows.
    pub num_validation_windows: u64,
    /// The size of the vocabulary.
    pub vocab_size: usize,
    /// Micro-batches per epoch.
    pub steps_per_epoch: u64,
    /// The number of epochs in the whole run.
    pub epochs: u64,
    /// The number of optimizer updates in the whole run.
    pub total_steps: u64,
    /// The number of compute threads.
    pub num_threads: usize,
    /// The folder of the checkpoints.
    pub output_dir: PathBuf,
}

/// The state from which a run continues.
#[derive(Debug, Clone)]
pub struct ResumeReport {
    /// The checkpoint that was loaded.
    pub path: PathBuf,
    /// The epoch of the checkpoint.
    pub epoch: u64,
    /// The number of completed micro-batches in it.
    pub step: u64,
    /// The number of micro-batches in that epoch.
    pub steps_per_epoch: u64,
    /// The number of completed updates.
    pub global_step: u64,
    /// The mean training loss of that epoch so far.
    pub train_loss: Option<f64>,
    /// The last validation loss.
    pub val_loss: Option<f64>,
    /// Whether the run has nothing left to do.
    pub complete: bool,
}

impl ResumeReport {
    /// Describes a checkpoint in `path`, from which a run with this plan continues.
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

/// The progress of an epoch after an update.
#[derive(Debug, Clone, Copy)]
pub struct EpochReport {
    /// Micro-batches per epoch.
    pub steps_per_epoch: u64,
    /// The step at which this epoch or the run ends, whichever comes first.
    pub last_step: u64,
    /// The mean loss of the epoch so far, over all sessions.
    pub epoch_loss: f64,
}
