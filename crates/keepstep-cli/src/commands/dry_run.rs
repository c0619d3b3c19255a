//! `keepstep train --dry-run`: print what a session would do, without writing a file.

use super::train;
use crate::arguments::TrainArguments;
use crate::failure::Failure;
use crate::format::{clock, megabytes};
use crate::hints::{LESS_MEMORY, disk_hint, notice_hint, with_hint};
use crate::progress::{Progress, banner, plan_json, resumed_json, sizes};
use crate::signals::Signals;
use crate::{hints, output};
use keepstep::run::Notice;
use keepstep_lm::Config;
use keepstep_lm::trainer::{DryRun, dry_run};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(arguments: &TrainArguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.config, &arguments.set)?;
    let signals = Signals::install(|_| {})?;
    let resume = train::resume(arguments, &config)?;
    let mut progress = Progress::new();
    let planned = dry_run(&config, resume, &mut progress, &|| signals.is_stopping());
    progress.finish();
    let planned = planned.map_err(|error| {
        signals.raise();
        hints::failure(&error, &config)
    })?;
    let notice = |notice: &Notice| with_hint(&notice.to_string(), notice_hint(notice));
    let mut notes: Vec<String> = planned.notices.iter().map(notice).collect();
    notes.extend(planned.notes.iter().cloned());
    notes.extend(later_copy(&config, planned.resume.as_ref().map(|resume| resume.global_step))?);
    let shortage = planned.disk.shortage();
    notes.extend(shortage.map(|shortage| with_hint(&shortage.to_string(), disk_hint(&shortage))));
    if planned.memory.is_too_much() {
        let available = planned.memory.available;
        let missing = planned.memory.total_bytes() - available.map_or(0, |available| available.bytes);
        let limit =
            available.map_or(String::new(), |available| format!(", because of {}", available.limited_by));
        notes.push(format!(
            "THE MEMORY IS TOO SMALL: {} are missing{limit} ({LESS_MEMORY})",
            megabytes(missing)
        ));
    }
    if arguments.json {
        return output::print_json(&to_json(&planned, &notes));
    }
    output::print(&text(&planned, &notes))
}

/// Says that a session would first fetch a later checkpoint from the remote.
fn later_copy(config: &Config, here: Option<u64>) -> Result<Option<String>, Failure> {
    let Some(policy) = crate::remote::policy(config)? else { return Ok(None) };
    let remote = policy.remote;
    let there = remote.newest().map_err(|error| Failure::of(if error.is_usage() { 2 } else { 1 }, &error))?;
    let later = there.filter(|there| Some(*there) > here);
    Ok(later.map(|step| {
        format!(
            "{} has a checkpoint at global step {step}: a session would fetch it and continue from there",
            remote.url()
        )
    }))
}

fn text(planned: &DryRun, notes: &[String]) -> String {
    let DryRun { plan, memory, disk, estimate, updates_left, evaluations_left, .. } = planned;
    let mut text = format!("{}\nCheckpoints: {}\n", sizes(plan), plan.output_dir.display());
    let mut memory_line = format!(
        "Memory: {} (weights {}, moments {}, gradients {}, activations {}",
        megabytes(memory.total_bytes()),
        megabytes(memory.weights_bytes),
        megabytes(memory.moments_bytes),
        megabytes(memory.gradients_bytes),
        megabytes(memory.activations_bytes),
    );
    if memory.spare_bytes > 0 {
        let _ = write!(memory_line, ", a save in the background {}", megabytes(memory.spare_bytes));
    }
    let available = |bytes: Option<u64>, what: &str| {
        bytes.map_or(String::new(), |bytes| format!("; {} are {what}", megabytes(bytes)))
    };
    let _ = writeln!(
        text,
        "{memory_line}){}",
        available(memory.available.map(|available| available.bytes), "available")
    );
    let _ = writeln!(
        text,
        "Disk: at most {} checkpoints of {}, {} more than now{}",
        disk.files,
        megabytes(disk.checkpoint_bytes),
        megabytes(disk.needed_bytes),
        available(disk.free_bytes, "free"),
    );
    let _ = match estimate {
        Some(estimate) => writeln!(
            text,
            "Time: about {} for {updates_left} updates ({:.3} s each) and {evaluations_left} evaluations ({:.3} s each); \
             measured on a few micro-batches, saving not counted",
            clock(estimate.total),
            estimate.update.as_secs_f64(),
            estimate.evaluation.as_secs_f64(),
        ),
        None => writeln!(text, "Time: not measured, because the memory is too small"),
    };
    for note in notes {
        let _ = writeln!(text, "{note}");
    }
    match &planned.resume {
        Some(report) => text.push_str(&banner(report)),
        None => text.push_str("⚡ WOULD BEGIN A NEW RUN"),
    }
    text.push_str("\n(dry run: nothing was written)\n");
    text
}

fn to_json(planned: &DryRun, notes: &[String]) -> serde_json::Value {
    let DryRun { plan, memory, disk, estimate, updates_left, evaluations_left, .. } = planned;
    json!({
        "plan": plan_json(plan),
        "resume": planned.resume.as_ref().map(resumed_json),
        "notes": notes,
        "updates_left": updates_left,
        "evaluations_left": evaluations_left,
        "memory": {
            "total_bytes": memory.total_bytes(), "weights_bytes": memory.weights_bytes,
            "moments_bytes": memory.moments_bytes, "gradients_bytes": memory.gradients_bytes,
            "spare_bytes": memory.spare_bytes, "activations_bytes": memory.activations_bytes,
            "available_bytes": memory.available.map(|available| available.bytes),
        },
        "disk": {
            "checkpoint_bytes": disk.checkpoint_bytes, "files": disk.files, "needed_bytes": disk.needed_bytes,
            "free_bytes": disk.free_bytes,
        },
        "estimate": estimate.map(|estimate| json!({
            "update_seconds": estimate.update.as_secs_f64(),
            "evaluation_seconds": estimate.evaluation.as_secs_f64(),
            "total_seconds": estimate.total.as_secs_f64(),
        })),
    })
}
