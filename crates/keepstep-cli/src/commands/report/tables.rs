//! The page's tables.

use super::html::{escape, loss, thousands};
use super::run_data::RunData;
use crate::format::{clock, megabytes, scalar, utc};
use keepstep::Checkpoint;
use keepstep::identity::{TOKENIZER, differences, settings};
use std::fmt::Write;
use std::time::Duration;

/// A table. On a narrow page each row becomes a block of labelled cells.
fn table(id: &str, columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!("<table class=\"rows\" id=\"{id}-table\"><thead><tr>");
    columns.iter().for_each(|column| {
        let _ = write!(out, "<th scope=\"col\">{column}</th>");
    });
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (column, cell) in columns.iter().zip(row) {
            let _ = write!(out, "<td data-label=\"{column}\"><span>{cell}</span></td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table>");
    out
}

pub(super) fn checkpoints(data: &RunData) -> String {
    let rows: Vec<Vec<String>> = data
        .checkpoints
        .iter()
        .map(|entry| {
            let mut row = vec![format!("<code>{}</code>", escape(&entry.name))];
            match &entry.content {
                Ok(checkpoint) => {
                    let (position, metrics) = (checkpoint.position, &checkpoint.metrics);
                    row.extend([
                        thousands(position.epoch),
                        thousands(position.step),
                        thousands(position.global_step),
                        loss(metrics.train_loss()),
                        loss(metrics.val_loss),
                    ]);
                }
                Err(_) => row.extend((0..5).map(|_| "–".to_owned())),
            }
            row.push(megabytes(entry.size));
            row.push(match &entry.content {
                Ok(_) => escape(&entry.state()),
                Err(reason) => format!("<strong class=\"bad\">damaged</strong>: {}", escape(reason)),
            });
            row
        })
        .collect();
    table(
        "checkpoints",
        &["File", "Epoch", "Step", "Global step", "Train loss", "Val loss", "Size", "State"],
        &rows,
    )
}

pub(super) fn sessions(data: &RunData) -> String {
    let place = |position: keepstep::Position| {
        format!(
            "{}<small>epoch {}, step {}</small>",
            thousands(position.global_step),
            position.epoch,
            thousands(position.step)
        )
    };
    let rows: Vec<Vec<String>> = data
        .sessions
        .iter()
        .enumerate()
        .map(|(index, session)| {
            let lasted = Duration::try_from_secs_f64(session.ended - session.started).unwrap_or_default();
            let source = session.resumed_from.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path));
            vec![
                format!("#{}", index + 1),
                utc(session.started),
                clock(lasted),
                place(session.from),
                place(session.to),
                thousands(session.updates),
                thousands(session.replayed),
                thousands(session.lost),
                session.tokens_per_second().map_or_else(|| "–".to_owned(), |rate| thousands(rate as u64)),
                escape(session.reason.as_deref().unwrap_or(if session.is_running() {
                    "still running"
                } else {
                    "no end recorded"
                })),
                source.map_or_else(|| "–".to_owned(), |name| format!("<code>{}</code>", escape(name))),
            ]
        })
        .collect();
    let columns = [
        "Session",
        "Began (UTC)",
        "Lasted",
        "From",
        "To",
        "Updates",
        "Replayed",
        "Lost",
        "Tokens/s",
        "Ended by",
        "Resumed from",
    ];
    table("sessions", &columns, &rows)
}

pub(super) fn config(checkpoint: &Checkpoint) -> String {
    let mut rows = vec![
        ("seed".to_owned(), checkpoint.identity.seed.to_string()),
        ("numerics version".to_owned(), checkpoint.identity.numerics.to_string()),
    ];
    let inputs = checkpoint.identity.inputs().filter(|(name, _)| *name != TOKENIZER);
    rows.extend(inputs.map(|(name, value)| (name.replace('_', " "), value.to_owned())));
    let of_the_run = rows.len();
    for (key, value) in settings(&checkpoint.identity.config) {
        if !rows[..of_the_run].iter().any(|(name, _)| *name == key) {
            rows.push((key, scalar(value)));
        }
    }
    let mut out = "<dl class=\"config\">".to_owned();
    for (key, value) in &rows {
        let _ = write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escape(key), escape(value));
    }
    out.push_str("</dl>");
    out
}

/// The runs that this one was branched from, each with the keys that changed. Empty if there are none.
pub(super) fn lineage(checkpoint: &Checkpoint) -> String {
    let configs = checkpoint.lineage.iter().skip(1).map(|ancestor| &ancestor.config);
    let mut out = String::new();
    for (ancestor, next) in checkpoint.lineage.iter().zip(configs.chain([&checkpoint.identity.config])) {
        let changes: Vec<String> = differences(&ancestor.config, next)
            .into_iter()
            .map(|difference| {
                let value = |value: Option<String>| escape(&value.unwrap_or_else(|| "not set".to_owned()));
                let (before, after) = (value(difference.saved), value(difference.configured));
                format!("<code>{}</code> from {before} to {after}", escape(&difference.key))
            })
            .collect();
        let what = if changes.is_empty() { "nothing changed".to_owned() } else { changes.join(", ") };
        let _ = write!(out, "<li>Branched at {}: {what}</li>", ancestor.position);
    }
    if out.is_empty() { out } else { format!("<ol class=\"lineage\">{out}</ol>") }
}
