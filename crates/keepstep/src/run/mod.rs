//! A run: what ties position, store and journal together for any training loop.

mod error;
mod opening;
mod policy;
mod replay;
mod saver;
mod saves;
#[cfg(test)]
mod slow_storage;
mod writer;

pub use error::RunError;
pub use opening::{Opening, Sizes};
pub use policy::{Policy, Resume};
pub use replay::Replayed;
pub use saves::{Save, Saves};

use crate::checkpoint::{Ancestor, Best, Checkpoint, Metrics, State};
use crate::identity::Identity;
use crate::journal::{Journal, exact};
use crate::name::{BEST_MODEL, Name, checkpoint_name};
use crate::order::Order;
use crate::position::{Plan, Position, Update};
use crate::store::{Retention, Room, Storage};
use saver::Job;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use writer::Writer;

/// A run under way.
///
/// The loop asks for the [`Run::next_update`], makes it, reports it with [`Run::complete`], evaluates where
/// [`Run::evaluation_due`], and lets [`Run::settle`] do the saving, or [`Run::settle_in_background`], while which training
/// goes on.
///
/// # Durability
/// Whatever ends a run, a save that is under way is finished first: dropping the run waits for it.
#[derive(Debug)]
pub struct Run {
    identity: Identity,
    lineage: Vec<Ancestor>,
    /// What tells this run's function from others, in the journal.
    digest: String,
    plan: Plan,
    policy: Policy,
    origin: Position,
    folder: PathBuf,
    storage: Arc<dyn Storage>,
    writer: Writer,
    /// Saves that have ended and nobody was told of.
    ended: Vec<Save>,
    journal: Journal,
    resumed: Option<(PathBuf, Checkpoint)>,
    notes: Vec<String>,
    position: Position,
    metrics: Metrics,
    num_updates: u64,
    evaluation_due: bool,
    is_new_best: bool,
    /// The position has not been settled: best and scheduled checkpoint may be still to be made, or could not be.
    unsettled: bool,
    last_saved: Option<PathBuf>,
    journal_failure: Option<io::Error>,
    replay: replay::Replay,
    replayed: Option<Replayed>,
    is_replay: bool,
}

/// What one update did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The sum of the losses of the update's tokens (or samples).
    pub loss_sum: f64,
    /// How many those are.
    pub num_tokens: u64,
    /// The learning rate that was used.
    pub learning_rate: f64,
    /// The gradient's global norm before clipping.
    pub grad_norm: f64,
}

impl Run {
    /// Opens the run in `folder`: continues it from its newest valid checkpoint, or begins it.
    ///
    /// # Errors
    /// See [`Opening::look`] and [`Opening::begin`].
    pub fn open(folder: &Path, identity: Identity, sizes: Sizes, policy: Policy) -> Result<Run, RunError> {
        Opening::look(folder, policy)?.begin(identity, sizes)
    }

    fn start(mut run: Run) -> Result<Run, RunError> {
        let from = run.resumed.as_ref().map(|(path, _)| path.display().to_string());
        run.note(
            "start",
            json!({
                "version": env!("CARGO_PKG_VERSION"), "host": crate::journal::host(), "pid": std::process::id(),
                "run": run.digest, "resumed_from": from,
                "epoch": run.position.epoch, "step": run.position.step, "global_step": run.position.global_step,
            }),
        );
        Ok(run)
    }

    /// The checkpoint that the run continues from. Its tensors are read from the file when they are asked for.
    pub fn resumed(&self) -> Option<(&Path, &Checkpoint)> {
        self.resumed.as_ref().map(|(path, checkpoint)| (path.as_path(), checkpoint))
    }

    /// Lets go of the checkpoint that the run continues from, once it has been loaded.
    pub fn loaded(&mut self) {
        self.resumed = None;
    }

    /// What people should know about how the run was opened.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where the run is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The sizes of the run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Updates that the optimizer has made.
    pub fn num_updates(&self) -> u64 {
        self.num_updates
    }

    /// The running totals.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether every update of the run is made.
    pub fn is_complete(&self) -> bool {
        self.next_update().is_none()
    }

    /// The order in which `epoch` visits `num_samples` samples.
    pub fn order(&self, epoch: u64, num_samples: u64) -> Order {
        Order::new(self.identity.seed, epoch, num_samples)
    }

    /// The update to be made next, or None at the end of the run.
    pub fn next_update(&self) -> Option<Update> {
        self.plan.next_update(self.position)
    }

    /// Refuses an update whose loss or gradient norm is not finite; call it before any parameter changes.
    ///
    /// # Errors
    /// [`RunError::NotFinite`], naming the position and the last good checkpoint.
    pub fn check_finite(&mut self, loss: f64, grad_norm: f64) -> Result<(), RunError> {
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                self.note("not_finite", json!({ "what": what, "global_step": self.position.global_step }));
                // The save under way may become the last good one.
                self.finish_save();
                let (position, last) = (self.position, self.last_saved.clone());
                return Err(RunError::NotFinite { what, value, position, last });
            }
        }
        Ok(())
    }

    /// Records that an update was made, and moves on to the position after it.
    ///
    pub fn complete(&mut self, update: &Update, progress: Progress) {
        let after = update.after();
        if after.epoch != self.position.epoch || update.micro_batches.start == 0 {
            self.metrics.loss_sum = 0.0;
            self.metrics.num_tokens = 0;
        }
        self.metrics.loss_sum += progress.loss_sum;
        self.metrics.num_tokens += progress.num_tokens;
        self.position = after;
        self.num_updates += 1;
        self.unsettled = true;
        self.is_new_best = false;
        let ends_epoch = after.step == self.plan.steps_per_epoch;
        self.evaluation_due =
            self.policy.eval_steps.is_some_and(|every| ends_epoch || after.global_step.is_multiple_of(every));
        let loss = progress.loss_sum / progress.num_tokens.max(1) as f64;
        let (is_replay, replayed) = self.replay.compare(after.global_step, loss, progress.grad_norm);
        self.replayed = replayed.or(self.replayed.take());
        self.is_replay = is_replay;
        self.note(
            "update",
            json!({
                "epoch": after.epoch, "step": after.step, "global_step": after.global_step,
                "loss": exact(loss), "loss_bits": format!("{:016x}", loss.to_bits()),
                "learning_rate": exact(progress.learning_rate), "grad_norm": exact(progress.grad_norm),
                "num_tokens": progress.num_tokens, "replay": is_replay,
            }),
        );
    }

    /// Changes how often evaluations are due, where that is known only after the run was opened. See
    /// [`Policy::eval_steps`].
    pub fn evaluate_every(&mut self, eval_steps: Option<u64>) {
        self.policy.eval_steps = eval_steps;
    }

    /// Whether an evaluation must be made at this position, before [`Run::settle`].
    pub fn evaluation_due(&self) -> bool {
        self.evaluation_due
    }

    /// Records an evaluation; true if it is the lowest so far. NaN never is.
    ///
    pub fn evaluated(&mut self, val_loss: f64) -> bool {
        self.evaluation_due = false;
        self.metrics.val_loss = Some(val_loss);
        self.is_new_best = match self.metrics.best {
            Some(best) => val_loss < best.value,
            None => !val_loss.is_nan(),
        };
        if self.is_new_best {
            self.metrics.best = Some(Best { position: self.position, value: val_loss });
        }
        let step = self.position.global_step;
        self.note(
            "evaluation",
            json!({ "global_step": step, "val_loss": exact(val_loss), "best": self.is_new_best }),
        );
        self.is_new_best
    }

    /// Records text that the model wrote at this position.
    pub fn sampled(&mut self, prompt: &str, text: &str) {
        let step = self.position.global_step;
        self.note("sample", json!({ "global_step": step, "prompt": prompt, "text": text }));
    }

    /// Makes the best durable, publishes the checkpoint if one is due, and rotates. `state` is called only if something
    /// is written. Gives what was written.
    ///
    /// # Errors
    /// A file could not be published; everything older is untouched. A best that could not be made durable is tried again
    /// with the next save, before its checkpoint.
    pub fn settle(&mut self, state: impl FnOnce() -> State) -> Result<Vec<PathBuf>, RunError> {
        let begun = self.settle_in_background(state);
        let ended = self.wait_for_saves();
        Ok(Saves { ended: begun.ended.into_iter().chain(ended.ended).collect(), ..ended }.check()?)
    }

    /// As [`Run::settle`], but the writing is left to a thread of its own while training goes on. At most one save is under
    /// way: where another one is due it is waited for. Gives the earlier saves that have ended, and [`Run::wait_for_saves`]
    /// the last.
    ///
    /// What `state` gives must not change later: copies, or shares of buffers that the next update does not write to. They
    /// are dropped before the save is reported, but for those of a best that could not be made durable: they are kept until
    /// it is, or until there is a better one.
    pub fn settle_in_background(&mut self, state: impl FnOnce() -> State) -> Saves {
        let name = checkpoint_name(&self.plan, self.position);
        let due = self.is_scheduled(&name);
        if !self.save_is_due() {
            self.unsettled = false;
            return self.saves();
        }
        let waited = self.finish_save();
        self.begin_save(state, false, due.then_some(name), due.then(|| self.retention()));
        self.unsettled = false;
        Saves { begun: true, waited, ..self.saves() }
    }

    /// Whether [`Run::settle`] has something to save at this position.
    pub fn save_is_due(&self) -> bool {
        let name = checkpoint_name(&self.plan, self.position);
        self.unsettled && (self.is_new_best || self.is_scheduled(&name))
    }

    /// Saves off schedule, for a stop or on request: where a scheduled checkpoint was not just made. A due evaluation
    /// that has not been made is recorded as pending.
    ///
    /// # Errors
    /// As [`Run::settle`].
    pub fn save_now(&mut self, state: impl FnOnce() -> State) -> Result<Option<PathBuf>, RunError> {
        let begun = self.save_now_in_background(state);
        let ended = self.wait_for_saves();
        let saves = Saves { ended: begun.ended.into_iter().chain(ended.ended).collect(), ..ended };
        Ok(saves.check()?.pop().filter(|_| begun.begun))
    }

    /// As [`Run::save_now`], in the background: see [`Run::settle_in_background`].
    pub fn save_now_in_background(&mut self, state: impl FnOnce() -> State) -> Saves {
        let name = checkpoint_name(&self.plan, self.position);
        let waited = self.finish_save();
        let is_there = self.last_saved.as_ref() == Some(&self.folder.join(&name)) && !self.unsettled;
        if self.position == self.origin || is_there {
            return Saves { waited, ..self.saves() };
        }
        // Only the off-schedule files before this one go; no scheduled one does before the next scheduled save.
        let retention = Retention { max_checkpoints: usize::MAX, ..self.retention() };
        let retention = (!self.is_scheduled(&name)).then_some(retention);
        self.begin_save(state, self.evaluation_due, Some(name), retention);
        Saves { begun: true, waited, ..self.saves() }
    }

    /// The saves that have ended since this was last asked. It does not wait.
    pub fn saves(&mut self) -> Saves {
        let save = self.writer.poll();
        self.ended(save);
        Saves { ended: std::mem::take(&mut self.ended), ..Saves::default() }
    }

    /// As [`Run::saves`], once nothing is under way any more.
    pub fn wait_for_saves(&mut self) -> Saves {
        let waited = self.finish_save();
        Saves { waited, ..self.saves() }
    }

    /// How long the save under way has been going on; None where there is none.
    pub fn is_saving(&self) -> Option<Duration> {
        self.writer.under_way()
    }

    fn begin_save(
        &mut self,
        state: impl FnOnce() -> State,
        pending: bool,
        name: Option<String>,
        retention: Option<Retention>,
    ) {
        let checkpoint = Checkpoint {
            position: self.position,
            state: state(),
            metrics: self.metrics.clone(),
            objective: self.policy.objective.clone(),
            identity: self.identity.clone(),
            plan: self.plan,
            origin: self.origin,
            num_updates: self.num_updates,
            pending,
            stopped: None,
            lineage: self.lineage.clone(),
        };
        let is_new_best = self.is_new_best && self.unsettled;
        self.writer.submit(Job { checkpoint: Arc::new(checkpoint), is_new_best, name, retention });
    }

    /// Waits for the save under way; says how long that was.
    fn finish_save(&mut self) -> Option<Duration> {
        self.writer.under_way()?;
        let began = Instant::now();
        let save = self.writer.wait();
        self.ended(save);
        Some(began.elapsed())
    }

    /// Keeps what has become of a save.
    fn ended(&mut self, save: Option<Save>) {
        let Some(mut save) = save else { return };
        for path in &save.files {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let seconds = (save.took.as_secs_f64() * 1e3).round() / 1e3;
            let scheduled = name.as_deref().map(|name| name == BEST_MODEL || self.is_scheduled(name));
            self.note(
                "save",
                json!({
                    "file": name, "global_step": save.position.global_step, "scheduled": scheduled,
                    "seconds": seconds,
                }),
            );
            self.last_saved = Some(path.clone());
        }
        self.journal_failure = save.journal_failure.take().or(self.journal_failure.take());
        if let Err(error) = &save.result {
            let (step, error) = (save.position.global_step, crate::store::chain(error));
            self.note("save_failed", json!({ "global_step": step, "error": error }));
            // It can be tried again as long as the run is there.
            self.unsettled |= save.position == self.position;
        }
        self.ended.push(save);
    }

    /// The room on the disk of the run's folder.
    pub fn room(&self) -> Option<Room> {
        Room::on(&*self.storage, &self.folder)
    }

    /// Whether the last update was made before, by an earlier session.
    pub fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// What the comparison of updates that are made again has found since this was last asked.
    pub fn take_replayed(&mut self) -> Option<Replayed> {
        self.replayed.take()
    }

    /// Why the journal could not be written since this was last asked.
    pub fn take_journal_failure(&mut self) -> Option<io::Error> {
        self.journal_failure.take()
    }

    /// Ends the session, once a save that is under way has ended. [`Run::take_replayed`] may have something to say once
    /// more.
    pub fn stop(&mut self, reason: &str) {
        self.finish_save();
        self.replayed = self.replayed.take().or(self.replay.end());
        self.note("stop", json!({ "reason": reason, "global_step": self.position.global_step }));
        self.sync_journal();
    }

    fn is_scheduled(&self, name: &str) -> bool {
        Name::parse(name).is_some_and(|name| self.retention().is_scheduled(&name))
    }

    fn retention(&self) -> Retention {
        Retention {
            max_checkpoints: self.policy.max_checkpoints.max(1),
            save_steps: self.policy.save_steps.max(1),
            total_steps: self.plan.total_steps,
        }
    }

    /// No run ends because its journal cannot be written.
    fn note(&mut self, event: &str, fields: serde_json::Value) {
        if let Err(error) = self.journal.append(event, fields) {
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
        // Whoever is unwinding has heard of something worse, and the writer finishes what it has all the same.
        if std::thread::panicking() {
            return;
        }
        self.finish_save();
        for save in &self.ended {
            if let Err(error) = &save.result {
                eprintln!("keepstep: {}", crate::store::chain(error));
            }
        }
    }
}
