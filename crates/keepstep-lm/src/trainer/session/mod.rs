//! One session of a run, from its current position to its end or to a request to stop.

mod open;
mod prepared;
mod pushes;
mod samples;
mod saves;

use super::clock::Clock;
use super::control::{Control, Outcome, StopReason};
use super::error::TrainError;
use super::learner::Learner;
use super::observer::{EpochReport, Observer};
use super::run_spec;
use super::sampler::Sampler;
use super::tensorboard::JournalTail;
use crate::config::{Config, OnDivergence};
use keepstep::position::{Plan, Position};
use keepstep::run::{Replayed, Run, RunError, UpdateStats};
use keepstep::store::{Disk, Storage};
use keepstep_text::corpus::Corpus;
use keepstep_text::tokenizer::Tokenizer;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Trains the run of a config from its current position.
///
/// # Errors
/// See [`TrainError`]. Everything that was saved before is kept.
pub fn train(config: &Config, control: &Control, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    train_on(config, control, observer, Arc::new(Disk))
}

/// Trains with checkpoints on another storage than the disk.
pub(super) fn train_on(
    config: &Config,
    control: &Control,
    observer: &mut dyn Observer,
    storage: Arc<dyn Storage>,
) -> Result<Outcome, TrainError> {
    run_spec::threads(config)?.install(|| match Session::open(config, control, observer, storage) {
        Ok(session) => session.run(),
        Err(error) if error.is_stop() => {
            let asked = control.stop.load(Ordering::SeqCst);
            let reason = if asked { StopReason::Signal } else { StopReason::TimeLimit };
            Ok(Outcome::Stopped { reason, global_step: None, has_progress: false, checkpoint: None })
        }
        Err(error) => Err(error),
    })
}

struct Session<'a> {
    config: Cow<'a, Config>,
    control: &'a Control,
    observer: &'a mut dyn Observer,
    run: Run,
    corpus: Corpus,
    tokenizer: Tokenizer,
    learner: Learner,
    clock: Clock,
    sampler: Sampler,
    tensorboard: Option<JournalTail>,
    updates: u64,
    evaluations: u64,
    save_failures: u32,
    journal_failed: bool,
    wait_said: bool,
    saved: Option<PathBuf>,
}

impl<'a> Session<'a> {
    /// Runs the session. However it ends, a running save is finished and reported first.
    fn run(mut self) -> Result<Outcome, TrainError> {
        let ended = self.train();
        let saves = self.run.wait_for_saves();
        if let Err(error) = &ended {
            self.wait_for_pushes();
            self.run.end_session(ended_by(error));
        }
        self.say_pushes();
        match (ended, self.report(saves)) {
            (Ok(outcome), reported) => reported.map(|()| outcome),
            (Err(error), reported) => {
                if let Err(also) = reported {
                    self.observer.note(&keepstep::store::chain(&also));
                }
                Err(error)
            }
        }
    }

    fn train(&mut self) -> Result<Outcome, TrainError> {
        loop {
            if self.run.evaluation_is_due()
                && let Some(reason) = self.evaluate()?
            {
                return self.stop(reason);
            }
            self.save_if_due()?;
            self.write_sample();
            self.say_tensorboard();
            self.check_remote()?;
            let Some(update) = self.run.next_update() else { break };
            if let Some(reason) = self.stop_reason(Clock::is_over) {
                return self.stop(reason);
            }
            if self.control.save.swap(false, Ordering::SeqCst) || self.clock.save_is_due() {
                self.save_now()?;
            }
            let started = Instant::now();
            let order = self.run.order(update.epoch, self.corpus.num_train_windows());
            if !self.learner.can_step() {
                let saves = self.run.wait_for_saves();
                self.report(saves)?;
            }
            let Session { run, learner, corpus, .. } = &mut *self;
            let outcome = learner.update(corpus, &order, &update, |loss, norm| {
                run.check_finite(loss, norm).map_err(TrainError::from)
            });
            let outcome = match outcome {
                Err(error @ TrainError::Corpus(_)) => {
                    // The failed update has changed nothing. Save the updates before it, then report the error.
                    self.save_now()?;
                    let saves = self.run.wait_for_saves();
                    self.report(saves)?;
                    return Err(error);
                }
                outcome => outcome?,
            };
            let stats = UpdateStats::new(outcome.loss.sum, outcome.loss.num_tokens)
                .with_learning_rate(outcome.learning_rate)
                .with_grad_norm(outcome.grad_norm);
            let made = self.run.record_update(&update, stats);
            self.say_journal();
            self.say_replayed()?;
            self.updates += 1;
            self.clock.updated(started);
            let position = self.run.position();
            let epoch = EpochReport {
                steps_per_epoch: self.run.plan().steps_per_epoch,
                last_step: last_step(self.run.plan(), position),
                epoch_loss: self.run.metrics().train_loss().unwrap_or(f64::NAN),
            };
            self.observer.updated(&made, &epoch);
        }
        let saves = self.run.wait_for_saves();
        self.report(saves)?;
        self.wait_for_pushes();
        self.run.end_session("finished");
        self.say_replayed()?;
        self.say_pushes();
        let not_pushed = self.run.is_pushed().err().map(|error| error.to_string());
        let sample = self.sample();
        Ok(Outcome::Finished { sample, not_pushed })
    }

    /// Reports replayed updates. Their losses must have the same bits as before.
    fn say_replayed(&mut self) -> Result<(), TrainError> {
        match self.run.take_replayed() {
            Some(Replayed::Identical { updates, left }) => {
                let left = match left {
                    0 => String::new(),
                    left => format!(" so far ({left} more are in the journal)"),
                };
                self.observer.note(&format!("{updates} updates replayed, all identical{left}"));
            }
            Some(Replayed::Diverged { what, global_step, journal, now, identical }) => {
                let error = TrainError::Diverged { what, global_step, journal, now, identical };
                if self.config.on_divergence == OnDivergence::Stop {
                    return Err(error);
                }
                self.observer.note(&format!("DIVERGED: {error}"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the reason to stop here, if there is one.
    fn stop_reason(&self, is_over: impl Fn(&Clock) -> bool) -> Option<StopReason> {
        let Control { stop, stop_after, stop_at, .. } = self.control;
        let asked = stop_after.is_some_and(|most| self.updates >= most)
            || stop_at.is_some_and(|step| self.run.position().global_step >= step);
        match () {
            () if stop.load(Ordering::SeqCst) => Some(StopReason::Signal),
            () if asked => Some(StopReason::Asked),
            () if is_over(&self.clock) => Some(StopReason::TimeLimit),
            () => None,
        }
    }

    /// Runs an evaluation. Returns the reason if a stop came before it was done.
    fn evaluate(&mut self) -> Result<Option<StopReason>, TrainError> {
        let started = Instant::now();
        let mut reason = self.stop_reason(Clock::is_over_for_evaluation);
        let Session { learner, corpus, observer, control, run, clock, sampler, .. } = self;
        let val_loss = learner.evaluate(corpus, |done, total| {
            observer.evaluating(done, total);
            clock.batch();
            if control.stop.load(Ordering::SeqCst) {
                reason = Some(StopReason::Signal);
            } else if clock.is_over_in_evaluation() {
                reason = reason.or(Some(StopReason::TimeLimit));
            }
            reason.is_none()
        })?;
        let Some(val_loss) = val_loss else { return Ok(reason.or(Some(StopReason::Signal))) };
        self.evaluations += 1;
        let evaluation = run.record_evaluation(val_loss)?;
        clock.evaluated(started);
        sampler.evaluated();
        observer.evaluated(&evaluation);
        Ok(None)
    }

    fn say_journal(&mut self) {
        if let Some(error) = self.run.take_journal_failure()
            && !std::mem::replace(&mut self.journal_failed, true)
        {
            self.observer
                .note(&format!("The journal cannot be written, the run continues without it: {error}"));
        }
    }

    fn stop(&mut self, reason: StopReason) -> Result<Outcome, TrainError> {
        self.observer.finishing();
        let saves = self.run.wait_for_saves();
        // Another save follows, and only its result counts.
        if let Err(error) = self.report(saves) {
            let text = format!("NOT SAVED: {}", keepstep::store::chain(&error));
            match &error {
                TrainError::Run(RunError::Store(error)) => self.observer.save_failed(&text, error),
                _ => self.observer.note(&text),
            }
        }
        let state = self.learner.state(self.run.position().global_step)?;
        let mut saves = self.run.save_now_in_background(|| state);
        saves.ended.extend(self.run.wait_for_saves().ended);
        saves.ended.iter().for_each(|save| self.say_saved(save));
        saves.check().map_err(RunError::Store)?;
        self.wait_for_pushes();
        self.run.end_session(reason.text(self.control.stopped_by.load(Ordering::SeqCst)));
        self.say_replayed()?;
        Ok(Outcome::Stopped {
            reason,
            global_step: Some(self.run.position().global_step),
            has_progress: self.updates + self.evaluations > 0,
            checkpoint: self.saved.clone(),
        })
    }

    fn say_tensorboard(&mut self) {
        if let Some(error) = self.tensorboard.as_mut().and_then(JournalTail::take_failure) {
            self.observer.note(&format!(
                "TensorBoard's files cannot be written, the run continues without them: {error}"
            ));
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(follower) = &mut self.tensorboard {
            follower.finish();
        }
        self.say_tensorboard();
    }
}

/// Returns the word for the journal.
fn ended_by(error: &TrainError) -> &'static str {
    match error {
        TrainError::Diverged { .. } => keepstep::journal::DIVERGED,
        TrainError::Run(RunError::NotFinite { .. }) => "not finite",
        TrainError::Run(RunError::Store(_)) => "not saved",
        TrainError::Run(RunError::Remote(_)) => "not pushed",
        _ => "error",
    }
}

/// Returns the step at which the epoch of `position` or the run ends, whichever comes first.
fn last_step(plan: &Plan, position: Position) -> u64 {
    let left = plan.total_steps.saturating_sub(position.global_step);
    let step = position.step.saturating_add(left.saturating_mul(plan.gradient_accumulation_steps));
    step.min(plan.steps_per_epoch)
}
