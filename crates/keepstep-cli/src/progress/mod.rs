//! What `train` shows while it runs: a bar on a terminal, plain lines elsewhere. All of it goes to standard error.

mod json;
mod line;

pub(crate) use json::JsonProgress;
pub(crate) use line::{Line, bar, clock};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use keepstep_lm::trainer::{EvaluationReport, Observer, PlanReport, ResumeReport, UpdateReport};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a plain line is written where there is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Shows a run on standard error.
pub(crate) struct Progress {
    /// None where standard error is not a terminal.
    bar: Option<ProgressBar>,
    last_plain: Option<Instant>,
    epoch: Option<EpochClock>,
    line: Option<Line>,
    /// When the next update could begin.
    ready: Instant,
    /// The epoch and step that this process starts from.
    start: (u64, u64),
}

/// The time that this process has spent training in one epoch.
struct EpochClock {
    epoch: u64,
    first_step: u64,
    /// Evaluations and saves are not the time of a step, but they are time that passes: they count.
    started: Instant,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        Progress { bar, last_plain: None, epoch: None, line: None, ready: Instant::now(), start: (1, 0) }
    }

    /// Writes a line that stays, above the bar where there is one.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the bar away and leaves its last state as a plain line.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(line) = self.line.take() {
            eprintln!("{line}");
        }
    }

    fn show(&mut self, text: String, always: bool) {
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => {
                if always || self.last_plain.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL) {
                    eprintln!("{text}");
                    self.last_plain = Some(Instant::now());
                }
            }
        }
    }
}

impl Observer for Progress {
    fn tokenizing(&mut self, done_bytes: u64, total_bytes: u64) {
        let percent = done_bytes * 100 / total_bytes.max(1);
        let bar = bar(done_bytes, total_bytes.max(1));
        self.show(format!("Tokenizing: {percent:3}%|{bar}| {}", megabytes(total_bytes)), false);
    }

    fn note(&mut self, text: &str) {
        self.say(text);
    }

    fn planned(&mut self, plan: &PlanReport) {
        self.ready = Instant::now();
        self.say(&format!(
            "{} parameters, {} tokens, vocabulary {}, {} threads\n{} training and {} validation windows, {} steps per \
             epoch, {} updates in all\nCheckpoints: {}",
            plan.num_parameters,
            plan.num_tokens,
            plan.vocab_size,
            plan.num_threads,
            plan.num_train_windows,
            plan.num_validation_windows,
            plan.steps_per_epoch,
            plan.total_steps,
            plan.output_dir.display(),
        ));
    }

    fn resumed(&mut self, report: &ResumeReport) {
        self.start = (report.epoch, report.step);
        self.say(&super::banner::banner(report));
    }

    fn updated(&mut self, report: &UpdateReport) {
        let clock = match &mut self.epoch {
            Some(clock) if clock.epoch == report.epoch => clock,
            epoch => {
                let first_step = if self.start.0 == report.epoch { self.start.1 } else { 0 };
                epoch.insert(EpochClock { epoch: report.epoch, first_step, started: self.ready })
            }
        };
        let line = Line {
            epoch: report.epoch,
            step: report.step,
            steps_per_epoch: report.steps_per_epoch,
            last_step: report.last_step,
            global_step: report.global_step,
            loss: Some(report.epoch_loss),
            learning_rate: Some(report.learning_rate),
            steps_here: report.step.saturating_sub(clock.first_step),
            elapsed: clock.started.elapsed(),
        };
        let text = line.to_string();
        let ends = report.step == report.last_step;
        self.line = (!ends && self.bar.is_some()).then_some(line);
        if ends && self.bar.is_some() {
            self.say(&text);
        } else {
            self.show(text, ends);
        }
        self.ready = Instant::now();
    }

    fn evaluating(&mut self, done_batches: u64, total_batches: u64) {
        if self.bar.is_some() {
            self.show(format!("Evaluating: {done_batches}/{total_batches}"), false);
        }
    }

    fn evaluated(&mut self, report: &EvaluationReport) {
        let best = if report.is_best { " (best so far)" } else { "" };
        self.say(&format!(
            "Evaluation at global step {}: val_loss={:.4}{best}",
            report.global_step, report.val_loss
        ));
    }

    fn saved(&mut self, path: &Path) {
        self.say(&format!("Saved {}", path.display()));
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
