//! Saving at a position, in the foreground or while training continues.

use super::saver::Job;
use super::{Run, RunError, Save, Saves};
use crate::checkpoint::{Checkpoint, State};
use crate::journal::{self, Event, SaveFailed};
use crate::name::{BEST_MODEL, Name, checkpoint_name};
use crate::store::Retention;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Run {
    /// Saves a new best model, publishes the checkpoint if one is due, and rotates. Calls `state` only if something is
    /// written. Returns the files that were written.
    ///
    /// # Errors
    /// A file could not be published. Everything older is untouched. The next save tries a best model that failed
    /// again, before its checkpoint.
    pub fn save_if_due(&mut self, state: impl FnOnce() -> State) -> Result<Vec<PathBuf>, RunError> {
        let begun = self.save_if_due_in_background(state);
        let ended = self.wait_for_saves();
        Ok(Saves { ended: begun.ended.into_iter().chain(ended.ended).collect(), ..ended }.check()?)
    }

    /// Saves as [`Run::save_if_due`] does, but in another thread while training continues. At most one save is in
    /// progress: if another is due, the call waits for the earlier one. Returns the saves that have ended;
    /// [`Run::wait_for_saves`] returns the last.
    ///
    /// The tensors that `state` returns must not change later: return copies, or share buffers that the next update
    /// does not write to. They are dropped before the save is reported. Those of a best model that could not be saved
    /// are kept until it is saved, or until there is a better one.
    pub fn save_if_due_in_background(&mut self, state: impl FnOnce() -> State) -> Saves {
        let name = checkpoint_name(&self.plan, self.position);
        let due = self.is_scheduled(&name);
        if !self.save_is_due() {
            self.unsaved = false;
            return self.saves();
        }
        let waited = self.finish_save();
        self.begin_save(state, false, due.then_some(name), due.then(|| self.retention()));
        self.unsaved = false;
        Saves { begun: true, waited, ..self.saves() }
    }

    /// Reports whether [`Run::save_if_due`] has something to save at this position.
    pub fn save_is_due(&self) -> bool {
        let name = checkpoint_name(&self.plan, self.position);
        self.unsaved && (self.is_new_best || self.is_scheduled(&name))
    }

    /// Saves off schedule, for a stop or on request. Does nothing if this position is already saved. Records an
    /// evaluation that is due and was not made as pending.
    ///
    /// # Errors
    /// See [`Run::save_if_due`].
    pub fn save_now(&mut self, state: impl FnOnce() -> State) -> Result<Option<PathBuf>, RunError> {
        let begun = self.save_now_in_background(state);
        let ended = self.wait_for_saves();
        let saves = Saves { ended: begun.ended.into_iter().chain(ended.ended).collect(), ..ended };
        Ok(saves.check()?.pop().filter(|_| begun.begun))
    }

    /// Saves as [`Run::save_now`] does, in the background: see [`Run::save_if_due_in_background`].
    pub fn save_now_in_background(&mut self, state: impl FnOnce() -> State) -> Saves {
        let name = checkpoint_name(&self.plan, self.position);
        let waited = self.finish_save();
        let is_there = self.last_saved.as_ref() == Some(&self.folder.join(&name)) && !self.unsaved;
        if self.position == self.origin || is_there {
            return Saves { waited, ..self.saves() };
        }
        // Remove only earlier off-schedule files. The next scheduled save removes scheduled ones.
        let retention = Retention { max_checkpoints: usize::MAX, ..self.retention() };
        let retention = (!self.is_scheduled(&name)).then_some(retention);
        self.begin_save(state, self.evaluation_due, Some(name), retention);
        Saves { begun: true, waited, ..self.saves() }
    }

    /// Returns the saves that have ended since the last call. Does not wait.
    pub fn saves(&mut self) -> Saves {
        let save = self.writer.poll();
        self.ended(save);
        Saves { ended: std::mem::take(&mut self.ended), ..Saves::default() }
    }

    /// Waits for the save in progress, and returns the saves that have ended since the last call.
    pub fn wait_for_saves(&mut self) -> Saves {
        let waited = self.finish_save();
        Saves { waited, ..self.saves() }
    }

    /// Returns how long the save in progress has taken so far. None if there is none.
    pub fn saving_for(&self) -> Option<Duration> {
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
            stopped: self.stopped.clone(),
            lineage: self.lineage.clone(),
        };
        let is_new_best = self.is_new_best && self.unsaved;
        self.writer.submit(Job { checkpoint: Arc::new(checkpoint), is_new_best, name, retention });
    }

    /// Waits for the save in progress. Returns how long that took.
    pub(super) fn finish_save(&mut self) -> Option<Duration> {
        self.writer.under_way()?;
        let began = Instant::now();
        let save = self.writer.wait();
        self.ended(save);
        Some(began.elapsed())
    }

    /// Records the result of a save.
    fn ended(&mut self, save: Option<Save>) {
        let Some(mut save) = save else { return };
        for path in &save.files {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let scheduled = Some(file == BEST_MODEL || self.is_scheduled(&file));
            let seconds = (save.took.as_secs_f64() * 1e3).round() / 1e3;
            let global_step = save.position.global_step;
            self.note(Event::Save(journal::Save { file, global_step, scheduled, seconds }));
            self.last_saved = Some(path.clone());
        }
        self.journal_failure = save.journal_failure.take().or(self.journal_failure.take());
        if let Err(error) = &save.result {
            let (global_step, error) = (save.position.global_step, crate::store::chain(error));
            self.note(Event::SaveFailed(SaveFailed { global_step, error }));
            // Another attempt is possible while the run is at this position.
            self.unsaved |= save.position == self.position;
        }
        let retention = self.retention();
        self.mirror(&save, retention);
        self.ended.push(save);
    }

    fn is_scheduled(&self, name: &str) -> bool {
        Name::parse(name).is_some_and(|name| self.retention().is_scheduled(&name))
    }

    fn retention(&self) -> Retention {
        // A run that the loop has ended here ends like one that has made all its updates.
        let end = if self.stopped.is_some() { self.position.global_step } else { self.plan.total_steps };
        Retention { max_checkpoints: self.policy.max_checkpoints.max(1), cadence: self.policy.cadence(), end }
    }
}
