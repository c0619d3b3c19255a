//! `keepstep train`: train, or continue training, the run that a config describes.

use crate::arguments::TrainArguments;
use crate::continuation;
use crate::failure::{Failure, status};
use crate::format;
use crate::progress::{Console, JsonProgress, Progress, write_json};
use crate::signals::Signals;
use crate::{hints, output, remote};
use keepstep::run::Resume;
use keepstep::store::Source;
use keepstep_lm::Config;
use keepstep_lm::trainer::{Control, Observer, Outcome, StopReason, train};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

pub(crate) fn run(arguments: &TrainArguments) -> Result<u8, Failure> {
    let started = Instant::now();
    let mut progress = Progress::new();
    let mut json = JsonProgress::default();
    let console = if arguments.json_progress { Console::Json } else { progress.console() };
    let signals = Signals::install({
        let console = console.clone();
        move |signal| console.stopping(signal)
    })?;
    let observer: &mut dyn Observer = if arguments.json_progress { &mut json } else { &mut progress };
    let outcome = session(arguments, &signals, started, observer);
    progress.finish();
    let (config, outcome) = outcome.inspect_err(|failure| {
        if arguments.json_progress {
            write_json(
                &json!({ "event": "failed", "status": failure.status(), "message": failure.to_string() }),
            );
        }
    })?;
    match &outcome {
        Outcome::Finished { sample, not_pushed } => {
            let written = sample.as_ref().and_then(|sample| sample.as_ref().ok());
            match sample {
                _ if arguments.json_progress => {
                    write_json(&json!({ "event": "finished", "sample": written }));
                }
                Some(Ok(text)) => {
                    console.say(&format!("Finished. The model continues {:?}:", config.sample.prompt));
                    output::print(&format!("{text}\n"))?;
                }
                Some(Err(message)) => console.say(&format!("Finished. No sample: {message}")),
                None => console.say("Finished."),
            }
            if let Some(reason) = not_pushed {
                console.say(&format!(
                    "THE RUN IS COMPLETE AND NOT ALL OF IT IS PUSHED: {reason}; to push the rest: keepstep push {} {}",
                    format::quoted(&config.output_dir),
                    format::quoted(config.remote.url.as_deref().unwrap_or_default()),
                ));
            }
        }
        Outcome::Stopped { reason, global_step, has_progress, checkpoint } => {
            let reason = reason_text(*reason, &signals, &config);
            let command = continuation::command();
            if !has_progress && config.session_time_limit.is_some() {
                console.say(
                    "NOTHING WAS DONE in this session: it stopped before the first update or evaluation was complete. \
                     If the time limit stopped it, set a longer one",
                );
            }
            let place = match global_step {
                Some(step) => format!("at global step {step}"),
                None => "before training began".to_owned(),
            };
            if arguments.json_progress {
                write_json(&json!({
                    "event": "stopped", "reason": reason, "global_step": global_step,
                    "checkpoint": checkpoint.as_ref().map(|path| path.display().to_string()), "go_on": command,
                }));
            } else {
                console.say(&format!("Stopped by {reason} {place}; nothing is lost. To go on: {command}"));
            }
        }
    }
    Ok(status_of(&outcome, &signals))
}

/// Loads the config and trains until the session ends.
fn session(
    arguments: &TrainArguments,
    signals: &Signals,
    started: Instant,
    observer: &mut dyn Observer,
) -> Result<(Config, Outcome), Failure> {
    let mut config = Config::load(&arguments.config, &arguments.set)?;
    config.session_time_limit = arguments.time_limit.or(config.session_time_limit);
    let control = Control {
        stop: signals.stop(),
        stopped_by: signals.stopped_by(),
        save: signals.save(),
        stop_after: arguments.stop_after,
        stop_at: arguments.stop_at,
        resume: resume(arguments, &config)?,
        started: Some(started),
        remote: remote::policy(&config)?,
        resume_remote: remote::source(&resumed_from(arguments, &config)?, &config)?,
    };
    let outcome = train(&config, &control, observer).map_err(|error| hints::failure(&error, &config))?;
    Ok((config, outcome))
}

/// The reason of the stop, in words.
fn reason_text(reason: StopReason, signals: &Signals, config: &Config) -> String {
    match (reason, &config.session_time_limit) {
        (StopReason::Signal, _) => signals.name().unwrap_or("a signal").to_owned(),
        (StopReason::TimeLimit, Some(limit)) => format!("the time limit of {limit}"),
        (StopReason::TimeLimit, None) => "the time limit".to_owned(),
        (StopReason::Asked, _) => "--stop-after or --stop-at".to_owned(),
    }
}

/// The exit status. After Ctrl-C this function raises the signal again and does not return, even if the run has just
/// finished: a shell's loop then ends too.
fn status_of(outcome: &Outcome, signals: &Signals) -> u8 {
    signals.raise_interrupt();
    match outcome {
        _ if signals.is_interrupted() => status::INTERRUPTED,
        Outcome::Finished { not_pushed: Some(_), .. } => status::NOT_PUSHED,
        Outcome::Finished { .. } => status::DONE,
        Outcome::Stopped { .. } => status::RESUMABLE,
    }
}

/// The path or URL to resume from, of the arguments or the config.
fn resumed_from(arguments: &TrainArguments, config: &Config) -> Result<Option<String>, Failure> {
    let text = match arguments.resume.as_deref() {
        None | Some("auto") => config.resume_from_checkpoint.as_deref(),
        Some("never") => None,
        text => text,
    };
    let expand = |text: &str| keepstep::settings::expand(text).map_err(|error| Failure::from(&error));
    text.map(expand).transpose()
}

/// Where to resume from according to the arguments; None if the config decides.
pub(super) fn resume(arguments: &TrainArguments, config: &Config) -> Result<Option<Resume>, Failure> {
    let source = match arguments.resume.as_deref() {
        Some("never") if arguments.rewind => {
            return Err(Failure::new(
                2,
                "--rewind and --resume never contradict each other; leave one of them out".to_owned(),
            ));
        }
        Some("never") => return Ok(Some(Resume::Never)),
        _ => match resumed_from(arguments, config)? {
            // The trainer fetches it first.
            Some(text) if remote::is_url(&text) => Source::None,
            Some(text) => Source::Path(PathBuf::from(text)),
            None => Source::None,
        },
    };
    Ok(Some(if arguments.rewind { Resume::Rewind(source) } else { Resume::Newest(source) }))
}
