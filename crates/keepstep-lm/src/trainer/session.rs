//! One session of a run, from its current position to its end or to a request to stop.

use super::clock::Clock;
use super::corpus_record;
use super::disk_need::{DiskNeed, check_file_size};
use super::dry_run::checkpoint_bytes;
use super::error::TrainError;
use super::learner::{Learner, engine_spec, restore};
use super::memory::Memory;
use super::observer::{EpochReport, Observer, PlanReport, ResumeReport};
use super::run_spec::{self, RunSpec};
use super::sampler::{self, Sampler};
use super::tensorboard::{self, JournalTail};
use super::{groups, precision};
use crate::config::{Config, OnDivergence, OnSaveError};
use crate::import::resume::take_over;
use keepstep::checkpoint::State;
use keepstep::position::{Plan, Position};
use keepstep::run::{Replayed, Resume, Run, RunBuilder, RunError, Save, Saves, UpdateStats};
use keepstep::store::{Disk, Storage};
use keepstep_model::gpt2::layout::initial_parameters;
use keepstep_model::train::train_state::TrainState;
use keepstep_text::corpus::Corpus;
use keepstep_text::tokenizer::Tokenizer;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// The number of failed saves in a row that ends a run, unless the config asks to continue.
const SAVE_FAILURES: u32 = 3;

/// The shortest wait for the disk that is reported.
const NOTABLE_WAIT: Duration = Duration::from_millis(100);

/// Controls a session from outside.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// If set, the run stops at the next update boundary, with a checkpoint.
    pub stop: Arc<AtomicBool>,
    /// The signal number that set `stop`, for the journal, or 0.
    pub stopped_by: Arc<AtomicI32>,
    /// If set, a checkpoint is saved at the next update boundary.
    pub save: Arc<AtomicBool>,
    /// Stop after this many updates of this session, as if `stop` had been set.
    pub stop_after: Option<u64>,
    /// Stop at this global step, as if `stop` had been set.
    pub stop_at: Option<u64>,
    /// The source to continue from. The default is the config's source, or else the newest checkpoint.
    pub resume: Option<Resume>,
    /// The start of the session for its time limit. The default is now.
    pub started: Option<Instant>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The run is complete.
    Finished {
        /// A sample text, or the reason why there is none.
        sample: Option<Result<String, String>>,
    },
    /// The run stopped early. The same command continues it.
    Stopped {
        /// The reason for the stop.
        reason: StopReason,
        /// The current global step, or `None` if the run was not open yet.
        global_step: Option<u64>,
        /// Whether this session made any progress.
        has_progress: bool,
        /// The last checkpoint of this session, if there is one.
        checkpoint: Option<PathBuf>,
    },
}

/// Why a session stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The flag [`Control::stop`] was set.
    Signal,
    /// The session's time limit was reached.
    TimeLimit,
    /// The update given by [`Control::stop_after`] or [`Control::stop_at`] was reached.
    Asked,
}

impl StopReason {
    /// Returns the word for the journal.
    fn text(self, signal: i32) -> &'static str {
        use rustix::process::Signal;
        match self {
            StopReason::Signal => match Signal::from_named_raw(signal) {
                Some(Signal::HUP) => "SIGHUP",
                Some(Signal::INT) => "SIGINT",
                Some(Signal::TERM) => "SIGTERM",
                Some(Signal::USR2) => "SIGUSR2",
                Some(Signal::XCPU) => "SIGXCPU",
                _ => "signal",
            },
            StopReason::TimeLimit => "time limit",
            StopReason::Asked => "as asked",
        }
    }
}

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
    /// Checks everything, loads the checkpoint, and only then writes to the run's folder.
    fn open(
        config: &'a Config,
        control: &'a Control,
        observer: &'a mut dyn Observer,
        storage: Arc<dyn Storage>,
    ) -> Result<Session<'a>, TrainError> {
        let mut clock = Clock::new(config, control.started.unwrap_or_else(Instant::now));
        let stop = || control.stop.load(Ordering::SeqCst) || clock.is_over_unsaved();
        let folder = run_spec::output_dir(config)?;
        let resume = match &control.resume {
            Some(resume) => resume.clone(),
            None => Resume::Newest(run_spec::source(config)?),
        };
        let resume = take_over(resume, config, &folder, observer, &stop)?;
        let builder = RunBuilder::open_on(&folder, run_spec::policy(config, resume), storage)?;
        let saved = builder.checkpoint().map(|checkpoint| checkpoint.identity.config.clone());
        let completed = config.with_saved(saved.as_ref());
        let config: &Config = &completed;
        let spec = RunSpec::find(config, builder.path().zip(builder.checkpoint()), observer, &stop)?;
        let plan = spec.check(&builder, &folder)?;
        let identity = spec.identity();
        let RunSpec { precision, support, files, tokenizer, corpus, initial, stored, model, sizes, .. } =
            spec;
        Memory::new(config, &model).check()?;
        let layout = model.layout();
        let is_new = builder.checkpoint().is_none();
        let mut train_state = if is_new && initial.is_none() {
            TrainState::new(layout, initial_parameters(&model, config.seed))
        } else {
            TrainState::zeros(layout)
        };
        let path = builder.path().unwrap_or(&folder).to_path_buf();
        let state = |source| TrainError::State { path: path.clone(), source };
        let groups = groups::stored_or_configured(Some(&stored), &config.optimizer, &train_state.layout)
            .map_err(state)?;
        if let (Some(initial), true) = (&initial, is_new) {
            let notes = initial.notes(config, &tokenizer);
            let loaded = notes.and_then(|notes| {
                let layout = Arc::clone(&train_state.layout);
                initial.load(&layout, train_state.parameters.get_mut())?;
                Ok(notes)
            });
            let wrong = |source| TrainError::Hub { path: initial.path().to_path_buf(), source };
            loaded.map_err(wrong)?.iter().for_each(|note| observer.note(note));
        }
        let schedule = run_spec::schedule(config, &plan);
        if let Some(checkpoint) = builder.checkpoint() {
            restore(&mut train_state, checkpoint, &groups, &schedule).map_err(state)?;
        }
        let engine_spec = engine_spec(config, &model, precision);
        let learner = Learner::new(config, &engine_spec, schedule, groups, train_state)?;
        let len_bytes = checkpoint_bytes(config, &model, &identity, &plan);
        check_file_size(len_bytes)?;
        clock.expect_saves_of(len_bytes);
        let mut run = builder.start(identity, sizes)?;
        let run_folder = folder.clone();
        run.evaluate_every((corpus.num_validation_windows() > 0).then_some(config.eval_steps));
        run_spec::publish_tokenizer(&folder, &tokenizer)?;
        // Without this record a changed corpus is still detected, but not which file changed.
        let _ = corpus_record::write(&folder, &files);

        run.notes().iter().for_each(|notice| observer.notice(notice));
        if let Some(text) = precision::note(precision, support) {
            observer.note(&text);
        }
        observer.planned(&plan_report(config, &corpus, &tokenizer, &learner, &plan, folder));
        if let Some((path, checkpoint)) = run.resumed() {
            observer.resumed(&ResumeReport::new(path, checkpoint, run.plan()));
        }
        run.release_checkpoint();
        let needed = DiskNeed::new(config, run.plan(), run.position(), len_bytes, run.room());
        needed.shortage().iter().for_each(|shortage| observer.short_of_disk(shortage));
        let sampler = Sampler::new(config, &run_folder, &run);
        let tensorboard = tensorboard::follow(config, &run_folder);
        Ok(Session {
            config: completed,
            control,
            observer,
            run,
            corpus,
            tokenizer,
            learner,
            clock,
            sampler,
            tensorboard,
            updates: 0,
            evaluations: 0,
            save_failures: 0,
            journal_failed: false,
            wait_said: false,
            saved: None,
        })
    }

    /// Runs the session. However it ends, a running save is finished and reported first.
    fn run(mut self) -> Result<Outcome, TrainError> {
        let ended = self.train();
        let saves = self.run.wait_for_saves();
        if let Err(error) = &ended {
            self.run.end_session(ended_by(error));
        }
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
        self.run.end_session("finished");
        self.say_replayed()?;
        let sample = self.sample();
        Ok(Outcome::Finished { sample })
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

    fn save_if_due(&mut self) -> Result<(), TrainError> {
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

    fn save_now(&mut self) -> Result<(), TrainError> {
        let began = Instant::now();
        let state = self.learner.state(self.run.position().global_step)?;
        let saves = self.run.save_now_in_background(|| state);
        self.begun(began, saves)
    }

    fn begun(&mut self, began: Instant, mut saves: Saves) -> Result<(), TrainError> {
        // A disk that is too slow is reported once.
        if let Some(waited) = saves.waited.filter(|waited| *waited >= NOTABLE_WAIT)
            && !std::mem::replace(&mut self.wait_said, true)
        {
            self.observer.note(&format!(
                "A save was due while the one before it was still being written: training waited {:.1} s for it, as it \
                 will wherever this happens again. Saving less often (save_steps) avoids it",
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
    fn report(&mut self, saves: Saves) -> Result<(), TrainError> {
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

    fn say_saved(&mut self, save: &Save) {
        for path in &save.files {
            self.observer.saved(path);
        }
        self.saved = save.files.last().cloned().or(self.saved.take());
        self.clock.saved(save.took);
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
        self.run.end_session(reason.text(self.control.stopped_by.load(Ordering::SeqCst)));
        self.say_replayed()?;
        Ok(Outcome::Stopped {
            reason,
            global_step: Some(self.run.position().global_step),
            has_progress: self.updates + self.evaluations > 0,
            checkpoint: self.saved.clone(),
        })
    }

    fn sample(&mut self) -> Option<Result<String, String>> {
        let Session { config, control, clock, learner, tokenizer, .. } = self;
        let max_new_tokens = config.sample.max_new_tokens;
        let stop = || control.stop.load(Ordering::SeqCst) || clock.is_over_unsaved();
        (max_new_tokens > 0).then(|| {
            let snapshot = learner.snapshot().map_err(|error| error.to_string())?;
            sampler::generate(config, max_new_tokens, &snapshot.parameters, tokenizer, &stop)
        })
    }

    /// Generates a short text after each evaluation, once everything due is saved or being saved.
    fn write_sample(&mut self) {
        if !self.sampler.is_due() {
            return;
        }
        let Session { config, control, clock, learner, tokenizer, sampler, .. } = self;
        let stop = || control.stop.load(Ordering::SeqCst) || clock.is_over();
        let text = match learner.snapshot() {
            Ok(snapshot) => sampler.write(config, &snapshot.parameters, tokenizer, &stop),
            Err(error) => Some(Err(error.to_string())),
        };
        match text {
            Some(Ok(text)) => {
                let sample = self.run.record_sample(&config.sample.prompt, &text);
                self.observer.sampled(&sample);
            }
            Some(Err(error)) => self.observer.note(&format!("No texts are written at evaluations: {error}")),
            None => {}
        }
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
        _ => "error",
    }
}

/// Returns the step at which the epoch of `position` or the run ends, whichever comes first.
fn last_step(plan: &Plan, position: Position) -> u64 {
    let left = plan.total_steps.saturating_sub(position.global_step);
    let step = position.step.saturating_add(left.saturating_mul(plan.gradient_accumulation_steps));
    step.min(plan.steps_per_epoch)
}

fn plan_report(
    config: &Config,
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    learner: &Learner,
    plan: &Plan,
    output_dir: PathBuf,
) -> PlanReport {
    PlanReport {
        num_parameters: learner.num_parameters() as u64,
        num_tokens: corpus.num_tokens(),
        num_train_windows: corpus.num_train_windows(),
        num_validation_windows: corpus.num_validation_windows(),
        vocab_size: tokenizer.vocab_size(),
        steps_per_epoch: plan.steps_per_epoch,
        epochs: config.epochs,
        total_steps: plan.total_steps,
        num_threads: rayon::current_num_threads(),
        output_dir,
    }
}
