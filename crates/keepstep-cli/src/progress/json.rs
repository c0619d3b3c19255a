//! Progress for other programs: one JSON object per line on standard output.

use keepstep_lm::trainer::{EvaluationReport, Observer, PlanReport, ResumeReport, UpdateReport};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;

/// Writes each event as a line. A reader that has gone away stops nothing.
pub(crate) struct JsonProgress;

impl JsonProgress {
    pub(crate) fn write(&self, line: &Value) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

impl Observer for JsonProgress {
    fn tokenizing(&mut self, done_bytes: u64, total_bytes: u64) {
        self.write(&json!({ "event": "tokenizing", "done_bytes": done_bytes, "total_bytes": total_bytes }));
    }

    fn note(&mut self, text: &str) {
        self.write(&json!({ "event": "note", "text": text }));
    }

    fn planned(&mut self, plan: &PlanReport) {
        self.write(&plan_json(plan));
    }

    fn resumed(&mut self, report: &ResumeReport) {
        self.write(&json!({
            "event": "resumed", "path": report.path.display().to_string(), "epoch": report.epoch,
            "step": report.step, "global_step": report.global_step, "train_loss": report.train_loss,
            "val_loss": report.val_loss, "complete": report.complete,
        }));
    }

    fn updated(&mut self, report: &UpdateReport) {
        self.write(&json!({
            "event": "update", "epoch": report.epoch, "step": report.step, "steps_per_epoch": report.steps_per_epoch,
            "global_step": report.global_step, "loss": report.loss, "epoch_loss": report.epoch_loss,
            "learning_rate": report.learning_rate, "grad_norm": report.grad_norm, "num_tokens": report.num_tokens,
        }));
    }

    fn evaluated(&mut self, report: &EvaluationReport) {
        self.write(&json!({
            "event": "evaluation", "global_step": report.global_step, "val_loss": report.val_loss,
            "best": report.is_best,
        }));
    }

    fn saved(&mut self, path: &Path) {
        self.write(&json!({ "event": "saved", "path": path.display().to_string() }));
    }
}

pub(crate) fn plan_json(plan: &PlanReport) -> Value {
    json!({
        "event": "plan", "num_parameters": plan.num_parameters, "num_tokens": plan.num_tokens,
        "num_train_windows": plan.num_train_windows, "num_validation_windows": plan.num_validation_windows,
        "vocab_size": plan.vocab_size, "steps_per_epoch": plan.steps_per_epoch, "epochs": plan.epochs,
        "total_steps": plan.total_steps, "num_threads": plan.num_threads,
        "output_dir": plan.output_dir.display().to_string(),
    })
}
