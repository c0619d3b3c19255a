//! A run: combines position, store and journal for any training loop.

mod builder;
mod compare;
mod error;
mod mirroring;
mod notice;
mod policy;
mod remotes;
mod replay;
mod saver;
mod saves;
mod saving;
mod sizes;
#[cfg(test)]
mod slow_storage;
mod start;
mod stats;
mod status;
mod writer;

pub use builder::RunBuilder;
pub use error::RunError;
pub use mirroring::RemoteStatus;
pub use notice::Notice;
pub use policy::{Policy, Resume};
pub use replay::Replayed;
pub use saves::{Save, Saves};
pub use sizes::Sizes;
pub use stats::UpdateStats;
pub use status::{RunState, STATUS_FILE, Status};

use crate::checkpoint::{Ancestor, Best, Checkpoint, Metrics};
use crate::identity::Identity;
use crate::journal::{self, Event, Journal, NotFinite, Number, Sample, Start, Stop};
use crate::metrics::Evaluation;
use crate::order::Order;
use crate::position::{Plan, Position, Update};
use crate::store::{Room, Storage};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use writer::Writer;

/// A training run in progress.
///
/// The loop gets the [`Run::next_update`], computes it, reports it with [`Run::record_update`] and evaluates if
/// [`Run::evaluation_is_due`]. [`Run::save_if_due`] saves; [`Run::save_if_due_in_background`] does so while training
/// continues. [`Run::stop`] ends the run before its planned end, and [`Run::end_session`] ends the session.
///
/// # Durability
/// However a run ends, a save in progress is finished first: dropping the run waits for it.
#[derive(Debug)]
pub struct Run {
    identity: Identity,
    lineage: Vec<Ancestor>,
    /// Identifies this run's function in the journal.
    digest: String,
    plan: Plan,
    policy: Policy,
    origin: Position,
    folder: PathBuf,
    storage: Arc<dyn Storage>,
    writer: Writer,
    /// Saves that have ended and were not yet reported.
    ended: Vec<Save>,
    journal: Journal,
    resumed: Option<(PathBuf, Checkpoint)>,
    notes: Vec<Notice>,
    position: Position,
    metrics: Metrics,
    num_updates: u64,
    evaluation_due: bool,
    is_new_best: bool,
    /// Whether the best or the scheduled checkpoint of this position may still have to be saved.
    unsaved: bool,
    /// The reason if the loop has ended the run here.
    stopped: Option<String>,
    id: String,
    status: Status,
    last_saved: Option<PathBuf>,
    journal_failure: Option<io::Error>,
    replay: replay::Replay,
    replayed: Option<Replayed>,
    is_replay: bool,
    mirroring: Option<mirroring::Mirroring>,
    push_until: Option<Instant>,
}

impl Run {
    /// Opens the run in `folder`: continues it from its newest valid checkpoint, or begins it.
    ///
    /// # Errors
    /// See [`RunBuilder::open`] and [`RunBuilder::start`].
    pub fn open(folder: &Path, identity: Identity, sizes: Sizes, policy: Policy) -> Result<Run, RunError> {
        RunBuilder::open(folder, policy)?.start(identity, sizes)
    }

    fn begin(mut run: Run) -> Result<Run, RunError> {
        let from = run.resumed.as_ref().map(|(path, _)| path.display().to_string());
        run.note_start(from);
        Ok(run)
    }

    fn note_start(&mut self, resumed_from: Option<String>) {
        self.note(Event::Start(Start {
            epoch: self.position.epoch,
            step: self.position.step,
            global_step: self.position.global_step,
            resumed_from,
            run: Some(self.digest.clone()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            host: Some(journal::host()),
            pid: Some(std::process::id().into()),
        }));
        self.write_status();
    }

    /// Returns the checkpoint that the run continues from. Its tensors are read from the file on access.
    pub fn resumed(&self) -> Option<(&Path, &Checkpoint)> {
        self.resumed.as_ref().map(|(path, checkpoint)| (path.as_path(), checkpoint))
    }

    /// Drops the checkpoint that the run continues from. Call it when the loop has loaded the checkpoint.
    pub fn release_checkpoint(&mut self) {
        self.resumed = None;
    }

    /// Returns facts for people about how the run was opened.
    pub fn notes(&self) -> &[Notice] {
        &self.notes
    }

    /// Returns the position of the run.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns the sizes of the run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Counts the updates that the optimizer has made.
    pub fn num_updates(&self) -> u64 {
        self.num_updates
    }

    /// Returns the running totals.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns an id of sixteen digits that is the same in every session of the run, wherever its folder is. Experiment
    /// trackers can use it. Two runs with the same identity and origin have the same id. Checkpoints do not store it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Reports whether all updates are made, or the loop has ended the run with [`Run::stop`].
    pub fn is_complete(&self) -> bool {
        self.next_update().is_none()
    }

    /// Returns the order in which `epoch` visits `num_samples` samples.
    pub fn order(&self, epoch: u64, num_samples: u64) -> Order {
        Order::new(self.identity.seed, epoch, num_samples)
    }

    /// Returns the next update, or None at the end of the run.
    pub fn next_update(&self) -> Option<Update> {
        if self.stopped.is_some() { None } else { self.plan.next_update(self.position) }
    }

    /// Returns the reason if the loop has ended the run here, in this session or an earlier one.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Ends the run at this position, before its planned end (early stopping). A checkpoint of this position becomes
    /// due and records the reason, so a later session finds the run complete. Call it before saving.
    pub fn stop(&mut self, reason: &str) {
        self.stopped = Some(reason.to_owned());
        self.unsaved = true;
    }

    /// Continues a run that an earlier session ended with [`Run::stop`].
    pub fn continue_stopped(&mut self) {
        self.stopped = None;
    }

    /// Refuses an update whose loss or gradient norm is not finite. Call it before any parameter changes, or at the
    /// latest before [`Run::record_update`]. Leave the norm out if a gradient scaler skipped the update.
    ///
    /// # Errors
    /// [`RunError::NotFinite`], naming the position and the last good checkpoint.
    pub fn check_finite(
        &mut self,
        loss: impl Into<Option<f64>>,
        grad_norm: impl Into<Option<f64>>,
    ) -> Result<(), RunError> {
        for (what, value) in [("loss", loss.into()), ("gradient norm", grad_norm.into())] {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                let global_step = self.position.global_step;
                self.note(Event::NotFinite(NotFinite { global_step, what: what.to_owned() }));
                // The save in progress may become the last good one.
                self.finish_save();
                let (position, last) = (self.position, self.last_saved.clone());
                return Err(RunError::NotFinite { what, value, position, last });
            }
        }
        Ok(())
    }

    /// Records that an update was made, and advances to the position after it. Returns the event that the journal
    /// stores.
    pub fn record_update(&mut self, update: &Update, stats: UpdateStats) -> journal::Update {
        let after = update.after();
        if after.epoch != self.position.epoch || update.micro_batches.start == 0 {
            self.metrics.loss_sum = 0.0;
            self.metrics.num_tokens = 0;
        }
        self.metrics.loss_sum += stats.loss_sum;
        self.metrics.num_tokens += stats.num_tokens;
        self.position = after;
        self.num_updates += 1;
        self.unsaved = true;
        self.is_new_best = false;
        self.evaluation_due = self.policy.cadence().evaluation_is_due(&self.plan, after);
        let loss = stats.loss();
        let (is_replay, replayed) = self.replay.compare(after.global_step, loss, stats.grad_norm);
        self.replayed = replayed.or(self.replayed.take());
        self.is_replay = is_replay;
        let event = journal::Update {
            epoch: after.epoch,
            step: after.step,
            global_step: after.global_step,
            loss,
            loss_bits: loss.map(|loss| format!("{:016x}", loss.to_bits())),
            learning_rate: stats.learning_rate,
            grad_norm: stats.grad_norm,
            num_tokens: stats.num_tokens,
            replay: is_replay,
            skipped: stats.skipped,
        };
        self.note(Event::Update(event.clone()));
        event
    }

    /// Changes how often evaluations are due, for loops that know it only after opening the run. See
    /// [`Policy::eval_steps`].
    pub fn evaluate_every(&mut self, eval_steps: Option<u64>) {
        self.policy.eval_steps = eval_steps;
    }

    /// Reports whether an evaluation must be made at this position, before saving.
    pub fn evaluation_is_due(&self) -> bool {
        self.evaluation_due
    }

    /// Records an evaluation. The event reports whether it is the best so far by the policy's objective, which is the
    /// lowest validation loss unless the policy chooses another. NaN is never the best.
    ///
    /// # Errors
    /// The evaluation does not have the metric that decides the best.
    pub fn record_evaluation(
        &mut self,
        evaluation: impl Into<Evaluation>,
    ) -> Result<journal::Evaluation, RunError> {
        let (evaluation, objective) = (evaluation.into(), &self.policy.objective);
        let Some(value) = evaluation.get(&objective.metric) else {
            return Err(RunError::Metric { metric: objective.metric.clone() });
        };
        self.is_new_best = objective.is_better(value, self.metrics.best.map(|best| best.value));
        if self.is_new_best {
            self.metrics.best = Some(Best { position: self.position, value });
        }
        self.evaluation_due = false;
        self.metrics.val_loss = evaluation.val_loss;
        let numbers = evaluation.others.iter().map(|(name, value)| (name.clone(), Number(*value)));
        let event = journal::Evaluation {
            global_step: self.position.global_step,
            val_loss: evaluation.val_loss,
            metrics: numbers.collect(),
            best: self.is_new_best,
        };
        self.metrics.others = evaluation.others;
        self.note(Event::Evaluation(event.clone()));
        Ok(event)
    }

    /// Records text that the model wrote at this position.
    pub fn record_sample(&mut self, prompt: &str, text: &str) -> Sample {
        let sample = Sample::new(self.position.global_step, prompt, text);
        self.note(Event::Sample(sample.clone()));
        sample
    }

    /// Measures the disk space for the run's folder.
    pub fn room(&self) -> Option<Room> {
        Room::on(&*self.storage, &self.folder)
    }

    /// Reports whether an earlier session had already made the last update.
    pub fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// Takes the result of comparing repeated updates with the journal, if there is a new one.
    pub fn take_replayed(&mut self) -> Option<Replayed> {
        self.replayed.take()
    }

    /// Takes the last error of writing the journal or the status, if there is a new one.
    pub fn take_journal_failure(&mut self) -> Option<io::Error> {
        self.journal_failure.take()
    }

    /// Waits for a save in progress, and ends the session. [`Run::take_replayed`] may then have a last result.
    pub fn end_session(&mut self, reason: &str) {
        self.finish_save();
        self.replayed = self.replayed.take().or(self.replay.end());
        self.note(Event::Stop(Stop { global_step: self.position.global_step, reason: reason.to_owned() }));
        self.sync_journal();
        let is_complete = self.is_complete() && !self.evaluation_due;
        self.status.state = if is_complete { RunState::Finished } else { RunState::Stopped };
        self.status.reason = Some(self.stopped.clone().unwrap_or_else(|| reason.to_owned()));
        self.write_status();
        self.finish_mirror();
    }

    /// Begins another session at the current position, after [`Run::end_session`]: the loop goes on in the same process.
    pub fn begin_session(&mut self) {
        (self.status.state, self.status.reason) = (RunState::Running, None);
        self.resume_mirror();
        self.note_start(None);
    }

    /// Writes the status. An error does not end the run.
    fn write_status(&mut self) {
        if !self.policy.status_file {
            return;
        }
        let Position { epoch, step, global_step } = self.position;
        let file = self.last_saved.as_ref().and_then(|path| path.file_name());
        let checkpoint = file.map(|name| name.to_string_lossy().into_owned());
        let remote = self.mirroring.as_ref().map(mirroring::Mirroring::status);
        self.status = Status { epoch, step, global_step, checkpoint, remote, ..self.status.clone() };
        if let Err(error) = self.status.write(&self.folder) {
            self.journal_failure = Some(error);
        }
    }

    /// Appends to the journal. An error does not end the run.
    fn note(&mut self, event: Event) {
        if let Err(error) = self.journal.append(event) {
            self.journal_failure = Some(error);
        }
    }

    fn sync_journal(&mut self) {
        if let Err(error) = self.journal.sync() {
            self.journal_failure = Some(error);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // During unwinding there is a worse error to report. The writer finishes its save anyway.
        if !std::thread::panicking() {
            self.finish_save();
        }
    }
}
