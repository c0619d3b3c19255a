//! Shows progress on standard error: a bar on a terminal, plain lines elsewhere.

mod banner;
mod console;
mod json;
mod line;

pub(crate) use banner::banner;
pub(crate) use console::Console;
pub(crate) use json::{JsonProgress, plan_json, resumed_json, write as write_json};

use crate::format;
use crate::hints::{FEWER_SAVES, disk_hint, notice_hint, store_hint, with_hint};
use crate::output::{say, stderr_width};
use indicatif::ProgressBar;
use keepstep::journal::{Evaluation, Update};
use keepstep::run::Notice;
use keepstep::store::StoreError;
use keepstep_lm::trainer::{DiskShortage, EpochReport, Observer, PlanReport, ResumeReport};
use line::{Line, share};
use std::path::Path;
use std::time::{Duration, Instant};

/// Shows a run on standard error.
pub(crate) struct Progress {
    console: Console,
    started: Instant,
    last_plain: Option<Instant>,
    epoch: Option<EpochClock>,
    line: Option<Line>,
    /// When the next update could begin. Evaluations and saves do not count as training time.
    ready: Instant,
    /// The epoch and step that this process starts from.
    start: Option<(u64, u64)>,
    steps_here: u64,
    training: Duration,
}

/// The progress of this process in one epoch.
struct EpochClock {
    epoch: u64,
    step: u64,
    started: Instant,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let now = Instant::now();
        Progress {
            console: Console::new(),
            started: now,
            last_plain: None,
            epoch: None,
            line: None,
            ready: now,
            start: None,
            steps_here: 0,
            training: Duration::ZERO,
        }
    }

    /// A handle for other threads that print lines.
    pub(crate) fn console(&self) -> Console {
        self.console.clone()
    }

    /// Writes a line that stays, above the bar where there is one.
    pub(crate) fn say(&self, text: &str) {
        self.console.say(text);
    }

    /// Takes the bar away and leaves its last state as a plain line.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar() {
            bar.finish_and_clear();
            if let Some(line) = self.line.take() {
                say(&line.fit(stderr_width()));
            }
        }
    }

    /// Shows a text in the bar, or as a plain line at intervals.
    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) {
        if let Some(bar) = self.bar() {
            bar.set_message(text().chars().take(stderr_width()).collect::<String>());
        } else if self.last_plain.is_none_or(|last| last.elapsed() >= interval(self.started.elapsed())) {
            say(&text());
            self.last_plain = Some(Instant::now());
        }
    }

    fn bar(&self) -> Option<&ProgressBar> {
        match &self.console {
            Console::Bar(bar) => Some(bar),
            _ => None,
        }
    }
}

/// The interval of plain lines. A notebook's output must stay readable after eleven hours.
fn interval(elapsed: Duration) -> Duration {
    Duration::from_secs(if elapsed < Duration::from_secs(300) { 10 } else { 60 })
}

impl Observer for Progress {
    fn listing(&mut self, num_files: u64) {
        // It is over before anyone could read it, unless there are very many or the disk is slow.
        if self.started.elapsed() > Duration::from_secs(2) {
            self.show(|| format!("Looking for files: {num_files}"));
        }
    }

    fn reading(&mut self, done_bytes: u64, total_bytes: u64) {
        self.show(|| share("Reading", done_bytes, total_bytes, format::megabytes));
    }

    fn training_tokenizer(&mut self, done_entries: u64, total_entries: u64) {
        let entries = |entries: u64| format!("{entries} entries");
        self.show(|| share("Training the tokenizer", done_entries, total_entries, entries));
    }

    fn tokenizing(&mut self, done_bytes: u64, total_bytes: u64) {
        self.show(|| share("Tokenizing", done_bytes, total_bytes, format::megabytes));
    }

    fn note(&mut self, text: &str) {
        self.say(text);
    }

    fn notice(&mut self, notice: &Notice) {
        self.note(&with_hint(&notice.to_string(), notice_hint(notice)));
    }

    fn short_of_disk(&mut self, shortage: &DiskShortage) {
        self.note(&with_hint(&shortage.to_string(), disk_hint(shortage)));
    }

    fn slow_disk(&mut self, text: &str) {
        self.note(&with_hint(text, Some(FEWER_SAVES)));
    }

    fn save_failed(&mut self, text: &str, error: &StoreError) {
        self.note(&with_hint(text, store_hint(error)));
    }

    fn planned(&mut self, plan: &PlanReport) {
        self.ready = Instant::now();
        self.last_plain = None;
        self.say(&format!("{}\nCheckpoints: {}", sizes(plan), plan.output_dir.display()));
    }

    fn resumed(&mut self, report: &ResumeReport) {
        self.start = Some((report.epoch, report.step));
        self.say(&banner(report));
    }

    fn updated(&mut self, report: &Update, epoch_report: &EpochReport) {
        let clock = match &mut self.epoch {
            Some(clock) if clock.epoch == report.epoch => clock,
            epoch => {
                let start = self.start.filter(|(epoch, _)| *epoch == report.epoch);
                let step = start.map_or(0, |(_, step)| step);
                epoch.insert(EpochClock { epoch: report.epoch, step, started: self.ready })
            }
        };
        self.steps_here += report.step.saturating_sub(clock.step);
        clock.step = report.step;
        self.training += self.ready.elapsed();
        let line = Line {
            epoch: report.epoch,
            step: report.step,
            steps_per_epoch: epoch_report.steps_per_epoch,
            last_step: epoch_report.last_step,
            global_step: report.global_step,
            loss: Some(epoch_report.epoch_loss),
            learning_rate: report.learning_rate,
            elapsed: clock.started.elapsed(),
            steps_here: self.steps_here,
            training: self.training,
        };
        let ends = report.step == epoch_report.last_step;
        match (self.bar(), ends) {
            (Some(_), true) => {
                self.say(&line.fit(stderr_width()));
                self.line = None;
            }
            (Some(_), false) => {
                self.show(|| line.fit(stderr_width()));
                self.line = Some(line);
            }
            (None, true) => self.say(&line.to_string()),
            (None, false) => self.show(|| line.to_string()),
        }
        self.ready = Instant::now();
    }

    fn evaluating(&mut self, done_batches: u64, total_batches: u64) {
        self.show(|| share("Evaluating", done_batches, total_batches, |batches| batches.to_string()));
    }

    fn evaluated(&mut self, report: &Evaluation) {
        let best = if report.best { " (best so far)" } else { "" };
        self.say(&format!(
            "Evaluation at global step {}: val_loss={}{best}",
            report.global_step,
            format::loss(report.val_loss.unwrap_or(f64::NAN))
        ));
        self.ready = Instant::now();
    }

    fn saving(&mut self, _stalled: Duration, _waited: Duration) {
        self.ready = Instant::now();
    }

    fn finishing(&mut self) {
        if let Some(bar) = self.bar() {
            bar.set_message("Saving …");
        }
    }

    fn saved(&mut self, path: &Path) {
        self.say(&format!("Saved {}", path.display()));
        self.ready = Instant::now();
    }
}

/// The sizes of a run, on two lines.
pub(crate) fn sizes(plan: &PlanReport) -> String {
    format!(
        "{} parameters, {} tokens, vocabulary {}, {} threads\n{} training and {} validation windows, {} steps per epoch, \
         {} updates in all",
        plan.num_parameters,
        plan.num_tokens,
        plan.vocab_size,
        plan.num_threads,
        plan.num_train_windows,
        plan.num_validation_windows,
        plan.steps_per_epoch,
        plan.total_steps,
    )
}
