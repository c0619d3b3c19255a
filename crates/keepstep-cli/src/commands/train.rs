//! `keepstep train`: train, or continue training, the run that a config describes.

use super::{Failure, status};
use crate::arguments::TrainArguments;
use crate::progress::{JsonProgress, Progress};
use crate::signals::Signals;
use keepstep::name::Name;
use keepstep::run::Resume;
use keepstep::store::Source;
use keepstep_lm::Config;
use keepstep_lm::foreign::{Counting, import, is_foreign_checkpoint};
use keepstep_lm::trainer::{Control, Observer, Outcome, TrainError, train};
use serde_json::json;
use std::path::PathBuf;

pub(crate) fn run(arguments: &TrainArguments) -> Result<u8, Failure> {
    let mut config =
        Config::load(&arguments.config, &arguments.set).map_err(|error| Failure::of(2, &error))?;
    config.session_time_limit = arguments.time_limit.or(config.session_time_limit);
    let signals = Signals::install()
        .map_err(|error| Failure::new(1, format!("the signal handlers cannot be installed: {error}")))?;
    let control = Control {
        stop: signals.stop(),
        save: signals.save(),
        stop_after: arguments.stop_after,
        stop_at: arguments.stop_at,
        resume: resume(arguments, &config)?,
    };
    if arguments.json_progress {
        let mut json = JsonProgress;
        let control = take_over(control, &config, &mut json)?;
        let outcome = train(&config, &control, &mut json).map_err(|error| failure(&error))?;
        json.write(&match &outcome {
            Outcome::Finished { sample } => {
                let sample = sample.as_ref().and_then(|sample| sample.as_ref().ok());
                json!({ "event": "finished", "sample": sample })
            }
            Outcome::Stopped { .. } => json!({ "event": "stopped" }),
        });
        return Ok(status_of(&outcome, &signals));
    }
    let mut progress = Progress::new();
    let control = take_over(control, &config, &mut progress)?;
    let outcome = train(&config, &control, &mut progress);
    progress.finish();
    let outcome = outcome.map_err(|error| failure(&error))?;
    match &outcome {
        Outcome::Finished { sample: Some(Ok(text)) } => {
            progress.say(&format!("Finished. The model continues {:?}:", config.sample.prompt));
            super::print(&format!("{text}\n"))?;
        }
        Outcome::Finished { sample: Some(Err(message)) } => {
            progress.say(&format!("Finished. No sample: {message}"))
        }
        Outcome::Finished { sample: None } => progress.say("Finished."),
        Outcome::Stopped { checkpoint } => progress.say(match checkpoint {
            Some(_) => "Stopped; nothing is lost. The same command goes on from here.",
            None => "Stopped. The same command goes on.",
        }),
    }
    Ok(status_of(&outcome, &signals))
}

/// After Ctrl-C it does not return: the signal is raised again, so that a shell's loop ends with it.
fn status_of(outcome: &Outcome, signals: &Signals) -> u8 {
    match outcome {
        Outcome::Finished { .. } => status::DONE,
        Outcome::Stopped { .. } => {
            signals.raise_interrupt();
            if signals.is_interrupted() { status::INTERRUPTED } else { status::RESUMABLE }
        }
    }
}

/// A notebook's checkpoint as the source becomes the run's first checkpoint, once.
fn take_over(mut control: Control, config: &Config, observer: &mut dyn Observer) -> Result<Control, Failure> {
    let Some(Resume::Newest(Source::Path(path))) = &control.resume else { return Ok(control) };
    if !is_foreign_checkpoint(path) {
        return Ok(control);
    }
    let folder = keepstep_lm::config::expand(&config.output_dir).map_err(|error| Failure::of(2, &error))?;
    let folder = PathBuf::from(folder);
    let is_checkpoint = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(|name| Name::parse(name).is_some()))
    };
    let is_begun = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.any(is_checkpoint));
    if !is_begun {
        let made =
            import(path, config, &folder, Counting::default(), observer).map_err(|error| failure(&error))?;
        observer.note(&format!("Imported {} as {}", path.display(), made.display()));
    }
    control.resume = Some(Resume::Newest(Source::None));
    Ok(control)
}

/// What the arguments say about resuming; None leaves it to the config.
fn resume(arguments: &TrainArguments, config: &Config) -> Result<Option<Resume>, Failure> {
    let path = |text: &str| {
        let expanded = keepstep_lm::config::expand(text).map_err(|error| Failure::of(2, &error))?;
        Ok::<_, Failure>(Source::Path(PathBuf::from(expanded)))
    };
    let configured = || config.resume_from_checkpoint.as_deref().map_or(Ok(Source::None), path);
    let source = match arguments.resume.as_deref() {
        None | Some("auto") => configured()?,
        Some("never") if arguments.rewind => {
            return Err(Failure::new(2, "--rewind and --resume never contradict each other".to_owned()));
        }
        Some("never") => return Ok(Some(Resume::Never)),
        Some(text) => path(text)?,
    };
    Ok(Some(if arguments.rewind { Resume::Rewind(source) } else { Resume::Newest(source) }))
}

pub(super) fn failure(error: &TrainError) -> Failure {
    Failure::of(if error.is_usage() { 2 } else { 1 }, error)
}
