//! The page as a whole.

use super::chart::{Chart, MOST_COLUMNS, ink};
use super::html::{escape, loss, thousands};
use super::run_data::{Curves, RunData};
use super::tables;
use crate::format::clock;
use keepstep::journal::Sample;
use keepstep::journal::sessions::Session;
use std::fmt::Write;
use std::time::Duration;

const STYLE: &str = include_str!("style.css");

/// The most samples on a page. Of more, the page shows evenly spaced ones, including the last.
const MOST_SAMPLES: usize = 60;
const OPEN_SAMPLES: usize = 3;

pub(super) fn page(data: &RunData) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{0} – keepstep</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&data.name)
    );
    header(&mut out, data);
    if let Some(reason) = &data.no_journal {
        let _ = writeln!(out, "<p class=\"notice\">{}</p>", escape(reason));
    }
    charts(&mut out, data);
    section(&mut out, "samples", "What the model writes", &samples(&data.curves));
    let list = if data.checkpoints.is_empty() {
        "<p class=\"notice\">No checkpoint has been saved yet.</p>".to_owned()
    } else {
        tables::checkpoints(data)
    };
    section(&mut out, "checkpoints", "Checkpoints", &list);
    if !data.sessions.is_empty() {
        section(&mut out, "sessions", "Sessions", &tables::sessions(data));
    }
    if let Some(checkpoint) = data.newest() {
        section(&mut out, "lineage", "Lineage", &tables::lineage(checkpoint));
        let note = "<p class=\"note\">The settings and inputs that the result depends on, from the newest valid checkpoint.</p>";
        section(&mut out, "config", "Config", &format!("{note}{}", tables::config(checkpoint)));
    }
    let _ = writeln!(
        out,
        "</main>\n<footer>Written by keepstep {} from the run's journal and checkpoints.</footer>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn section(out: &mut String, id: &str, title: &str, content: &str) {
    if !content.is_empty() {
        let _ = writeln!(out, "<section id=\"{id}\">\n<h2>{title}</h2>\n{content}\n</section>");
    }
}

fn header(out: &mut String, data: &RunData) {
    let (class, status) = status(data);
    let _ = writeln!(
        out,
        "<header>\n<p class=\"eyebrow\">Training run</p>\n<h1>{}</h1>\n<p class=\"status {class}\">{status}</p>\n</header>",
        escape(&data.name)
    );
    let (curves, newest) = (&data.curves, data.newest());
    let position = curves.last.or(newest.map(|checkpoint| checkpoint.position));
    let mut tiles: Vec<(&str, String, String)> = Vec::new();
    if let Some(position) = position {
        let of =
            newest.map_or_else(String::new, |newest| format!("of {}", thousands(newest.plan.total_steps)));
        tiles.push(("Global step", thousands(position.global_step), of));
        let of = newest
            .map_or_else(String::new, |newest| format!(" of {}", thousands(newest.plan.steps_per_epoch)));
        tiles.push(("Epoch", position.epoch.to_string(), format!("step {}{of}", thousands(position.step))));
    }
    if let Some(last) = curves.loss.columns(MOST_COLUMNS).last() {
        let over =
            if last.count == 1 { "last update".to_owned() } else { format!("last {} updates", last.count) };
        tiles.push(("Training loss", loss(Some(last.mean())), over));
    }
    let best = curves.losses();
    let best = best.min_by(|one, other| one.1.total_cmp(&other.1));
    let best = best.map(|(step, loss)| (loss, step)).or_else(|| {
        let best = newest?.metrics.best?;
        Some((newest?.best_val_loss()?, best.position.global_step))
    });
    if let Some((val_loss, step)) = best {
        tiles.push(("Best val. loss", loss(Some(val_loss)), format!("at {}", thousands(step))));
    }
    if curves.num_tokens > 0 {
        let spent: f64 = data.sessions.iter().map(|session| session.ended - session.started).sum();
        let spent = clock(Duration::try_from_secs_f64(spent).unwrap_or_default());
        tiles.push(("Tokens trained", super::html::rough(curves.num_tokens), format!("in {spent}")));
    }
    if !data.sessions.is_empty() {
        let replayed: u64 = data.sessions.iter().map(|session| session.replayed).sum();
        let what = if replayed == 0 {
            "nothing replayed".to_owned()
        } else {
            format!("{} updates replayed", thousands(replayed))
        };
        tiles.push(("Sessions", thousands(data.sessions.len() as u64), what));
    }
    out.push_str("<dl class=\"tiles\">");
    for (name, value, note) in tiles {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>");
    }
    out.push_str("</dl>\n");
}

/// The state of the run: a CSS class and a sentence.
fn status(data: &RunData) -> (&'static str, String) {
    let is_complete =
        data.newest().is_some_and(|newest| newest.position.global_step >= newest.plan.total_steps);
    match data.sessions.last().map(|session| session.reason.as_deref()) {
        _ if is_complete => ("good", "Finished".to_owned()),
        Some(Some("finished")) => ("good", "Finished".to_owned()),
        Some(Some("not finite")) => ("bad", "Stopped: a loss or gradient was not finite".to_owned()),
        Some(Some(reason)) => ("wait", format!("Stopped: {}. The same command goes on", escape(reason))),
        Some(None) if data.sessions.last().is_some_and(Session::is_running) => ("good", "Running".to_owned()),
        Some(None) => {
            ("wait", "Killed, or running elsewhere: its last session has no end recorded".to_owned())
        }
        None => ("wait", "Not finished".to_owned()),
    }
}

fn charts(out: &mut String, data: &RunData) {
    let curves = &data.curves;
    let (Some(first), Some(last)) = (curves.first_step, curves.last) else {
        if data.no_journal.is_none() {
            out.push_str("<p class=\"notice\">No update has been made yet, so there is no curve.</p>\n");
        }
        return;
    };
    let begins: Vec<u64> = data.sessions.iter().map(|session| session.from.global_step).collect();
    let points: Vec<(u64, f64)> = curves.losses().collect();
    let steps = (first.saturating_sub(1), last.global_step);
    let main = Chart {
        name: "Loss over global step",
        curve: &curves.loss,
        color: ink::TRAIN,
        points: &points,
        sessions: &begins,
        steps,
        from_zero: false,
        size: (1000, 360),
    };
    let mut legend = "<ul class=\"legend\"><li><i class=\"k1\"></i>training loss</li>".to_owned();
    if !points.is_empty() {
        legend.push_str("<li><i class=\"k2\"></i>validation loss</li>");
    }
    if begins.len() > 1 {
        legend.push_str("<li><i class=\"k8\"></i>a session begins</li>");
    }
    legend.push_str("</ul>");
    let width = curves.loss.width(MOST_COLUMNS);
    let note = if width > 1 {
        format!(
            "<p class=\"note\">{} updates, drawn {} at a time: the line is their mean, the band reaches from the minimum \
             to the maximum.</p>",
            thousands(curves.num_updates),
            thousands(width)
        )
    } else {
        String::new()
    };
    section(out, "loss", "Loss", &format!("{legend}<figure>{}</figure>{note}", main.svg()));
    let mut small = String::new();
    for (name, curve, color, from_zero) in [
        ("Learning rate", &curves.learning_rate, ink::RATE, true),
        ("Tokens per second", &curves.speed, ink::SPEED, true),
        ("Gradient norm", &curves.grad_norm, ink::NORM, true),
    ] {
        if curve.is_empty() {
            continue;
        }
        let chart =
            Chart { name, curve, color, points: &[], sessions: &begins, steps, from_zero, size: (340, 230) };
        let _ = write!(small, "<figure><figcaption>{name}</figcaption>{}</figure>", chart.svg());
    }
    let _ = writeln!(out, "<section id=\"more\" class=\"grid\">{small}</section>");
}

/// The samples, newest first. Of many, evenly spaced ones.
fn samples(curves: &Curves) -> String {
    let all = &curves.samples;
    let shown: Vec<&Sample> = if all.len() <= MOST_SAMPLES {
        all.iter().rev().collect()
    } else {
        let place = |index: usize| index * (all.len() - 1) / (MOST_SAMPLES - 1);
        (0..MOST_SAMPLES).rev().map(|index| &all[place(index)]).collect()
    };
    let mut out = String::new();
    if shown.len() < all.len() {
        let _ = write!(
            out,
            "<p class=\"note\">{} of {} texts, evenly spaced.</p>",
            shown.len(),
            thousands(all.len() as u64)
        );
    }
    for (index, sample) in shown.iter().enumerate() {
        let at = curves.evaluations.iter().find(|evaluation| evaluation.global_step == sample.global_step);
        let with = at.map_or_else(String::new, |evaluation| {
            let best = if evaluation.best { " <b>best so far</b>" } else { "" };
            format!("<span>validation loss {:.4}{best}</span>", evaluation.val_loss.unwrap_or(f64::NAN))
        });
        let _ = write!(
            out,
            "<details class=\"sample\"{}><summary>Global step {} {with}</summary><pre><span \
             class=\"prompt\">{}</span>{}</pre></details>",
            if index < OPEN_SAMPLES { " open" } else { "" },
            thousands(sample.global_step),
            escape(&sample.prompt),
            escape(&sample.text)
        );
    }
    out
}
