//! The saves of a session: when they are due, and what becomes of them.

use super::Session;
use crate::config::OnSaveError;
use crate::trainer::error::TrainError;
use keepstep::checkpoint::State;
use keepstep::run::{RunError, Save, Saves};
use std::time::{Duration, Instant};

/// The number of failed saves in a row that ends a run, unless the config asks to continue.
const SAVE_FAILURES: u32 = 3;

/// The shortest wait for the disk that is reported.
const NOTABLE_WAIT: Duration = Duration::from_millis(100);

impl Session<'_> {
    pub(super) fn save_if_due(&mut self) -> Result<(), TrainError> {
        let saves = self.run.saves();
        self.report(saves)?;
        let began = Instant::now();
        let global_step = self.run.position().global_step;
        let saves = if self.run.save_is_due() {
            let state = self.learner.state(global_step)?;
            self.run.save_if_due_in_background(|| state)
        } else {
            // No save is due, so this is never called.
            self.run.save_if_due_in_background(State::default)
        };
        self.begun(began, saves)
    }

    pub(super) fn save_now(&mut self) -> Result<(), TrainError> {
        let began = Instant::now();
        let state = self.learner.state(self.run.position().global_step)?;
        let saves = self.run.save_now_in_background(|| state);
        self.begun(began, saves)
    }

    pub(super) fn begun(&mut self, began: Instant, mut saves: Saves) -> Result<(), TrainError> {
        // A disk that is too slow is reported once.
        if let Some(waited) = saves.waited.filter(|waited| *waited >= NOTABLE_WAIT)
            && !std::mem::replace(&mut self.wait_said, true)
        {
            self.observer.slow_disk(&format!(
                "A save was due while the one before it was still being written: training waited {:.1} s for it, as it \
                 will wherever this happens again",
                waited.as_secs_f64()
            ));
        }
        if saves.begun {
            self.clock.saving();
            if self.config.background_saving {
                let waited = saves.waited.unwrap_or_default();
                self.observer.saving(began.elapsed().saturating_sub(waited), waited);
            } else {
                saves.ended.extend(self.run.wait_for_saves().ended);
            }
        }
        self.report(saves)
    }

    /// Reports saves. A few failures in a row end the run, unless the config asks to continue.
    pub(super) fn report(&mut self, saves: Saves) -> Result<(), TrainError> {
        let mut fatal = None;
        for save in saves.ended {
            self.say_saved(&save);
            let Err(error) = save.result else {
                self.save_failures = 0;
                continue;
            };
            self.save_failures += 1;
            let is_bounded = self.config.on_save_error == OnSaveError::Stop;
            let is_end = self.run.is_complete() && save.position == self.run.position();
            if is_bounded && self.save_failures >= SAVE_FAILURES || is_end {
                fatal = Some(error);
                continue;
            }
            let text = keepstep::store::chain(&error);
            let what = if save.files.is_empty() { "NOT SAVED" } else { "NOT ALL SAVED" };
            let text = format!("{what} ({} in a row): {text}", self.save_failures);
            self.observer.save_failed(&text, &error);
        }
        if let Some(so_far) = self.run.saving_for() {
            self.clock.saving_for(so_far);
        }
        self.say_journal();
        fatal.map_or(Ok(()), |error| Err(RunError::Store(error).into()))
    }

    pub(super) fn say_saved(&mut self, save: &Save) {
        for path in &save.files {
            self.observer.saved(path);
        }
        self.saved = save.files.last().cloned().or(self.saved.take());
        self.clock.saved(save.took);
    }
}
