//! Progress for other programs: one JSON object per line on standard output. docs/formats.md has the schema.

use crate::hints::{FEWER_SAVES, disk_hint, notice_hint, store_hint, with_hint};
use keepstep::journal::{Evaluation, Event, Sample, Update};
use keepstep::remote::PushReport;
use keepstep::run::Notice;
use keepstep::store::StoreError;
use keepstep_lm::trainer::{DiskShortage, EpochReport, Observer, PlanReport, ResumeReport};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The shortest time between two lines about work in progress.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes each event as a line.
#[derive(Default)]
pub(crate) struct JsonProgress {
    last: Option<Instant>,
}

/// Writes one line. Errors are ignored: a reader that stops reading must not stop training.
pub(crate) fn write(line: &Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// An event in the journal's form, without the time.
fn event(event: Event) -> Value {
    serde_json::to_value(event).unwrap_or_default()
}

pub(super) fn note(text: &str) -> Value {
    json!({ "event": "note", "text": text })
}

pub(super) fn stopping(signal: &str) -> Value {
    json!({ "event": "stopping", "reason": signal })
}

impl JsonProgress {
    /// Reports work in progress at intervals, and its end always.
    fn now_and_then(&mut self, is_end: bool, line: &Value) {
        if is_end || self.last.is_none_or(|last| last.elapsed() >= INTERVAL) {
            self.last = Some(Instant::now());
            write(line);
        }
    }
}

impl Observer for JsonProgress {
    fn listing(&mut self, num_files: u64) {
        self.now_and_then(false, &json!({ "event": "listing", "num_files": num_files }));
    }

    fn reading(&mut self, done_bytes: u64, total_bytes: u64) {
        let line = json!({ "event": "reading", "done_bytes": done_bytes, "total_bytes": total_bytes });
        self.now_and_then(done_bytes >= total_bytes, &line);
    }

    fn training_tokenizer(&mut self, done_entries: u64, total_entries: u64) {
        let line = json!({ "event": "training_tokenizer", "done_entries": done_entries, "total_entries": total_entries });
        self.now_and_then(done_entries >= total_entries, &line);
    }

    fn tokenizing(&mut self, done_bytes: u64, total_bytes: u64) {
        let line = json!({ "event": "tokenizing", "done_bytes": done_bytes, "total_bytes": total_bytes });
        self.now_and_then(done_bytes == total_bytes, &line);
    }

    fn note(&mut self, text: &str) {
        write(&note(text));
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
        let mut line = plan_json(plan);
        line["event"] = "plan".into();
        write(&line);
    }

    fn resumed(&mut self, report: &ResumeReport) {
        let mut line = resumed_json(report);
        line["event"] = "resumed".into();
        write(&line);
    }

    fn updated(&mut self, update: &Update, epoch: &EpochReport) {
        let mut line = event(Event::Update(update.clone()));
        line["steps_per_epoch"] = epoch.steps_per_epoch.into();
        line["epoch_loss"] = epoch.epoch_loss.into();
        write(&line);
    }

    fn evaluating(&mut self, done_batches: u64, total_batches: u64) {
        let line =
            json!({ "event": "evaluating", "done_batches": done_batches, "total_batches": total_batches });
        self.now_and_then(false, &line);
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        write(&event(Event::Evaluation(evaluation.clone())));
    }

    fn sampled(&mut self, sample: &Sample) {
        write(&event(Event::Sample(sample.clone())));
    }

    fn saved(&mut self, path: &Path) {
        write(&json!({ "event": "saved", "path": path.display().to_string() }));
    }

    fn push_report(&mut self, report: &PushReport) {
        write(&match report {
            PushReport::Pushed { files, global_step, bytes, took } => json!({
                "event": "pushed", "files": files, "global_step": global_step, "bytes": bytes,
                "seconds": took.as_secs_f64(),
            }),
            PushReport::Skipped { file, global_step } => {
                json!({ "event": "push_skipped", "file": file, "global_step": global_step })
            }
            PushReport::Failed { global_step, error, .. } => {
                json!({ "event": "push_failed", "global_step": global_step, "error": error })
            }
            report => note(&report.to_string()),
        });
    }
}

pub(crate) fn plan_json(plan: &PlanReport) -> Value {
    json!({
        "num_parameters": plan.num_parameters, "num_tokens": plan.num_tokens,
        "num_train_windows": plan.num_train_windows, "num_validation_windows": plan.num_validation_windows,
        "vocab_size": plan.vocab_size, "steps_per_epoch": plan.steps_per_epoch, "epochs": plan.epochs,
        "total_steps": plan.total_steps, "num_threads": plan.num_threads,
        "output_dir": plan.output_dir.display().to_string(),
    })
}

pub(crate) fn resumed_json(report: &ResumeReport) -> Value {
    json!({
        "path": report.path.display().to_string(), "epoch": report.epoch, "step": report.step,
        "global_step": report.global_step, "train_loss": report.train_loss, "val_loss": report.val_loss,
        "complete": report.complete,
    })
}
