//! `keepstep generate`: write text with a trained model.

use super::Failure;
use crate::arguments::GenerateArguments;
use crate::signals::Signals;
use keepstep::name::BEST_MODEL;
use keepstep::store::{Candidates, Disk, find, load};
use keepstep_lm::generate::{GenerateOptions, Generator};
use std::cell::RefCell;
use std::io::{self, Write};
use std::path::Path;

/// Text comes as it is written. Ctrl-C ends it after the token at hand, and the program as the signal does.
pub(crate) fn run(arguments: &GenerateArguments) -> Result<(), Failure> {
    if !(arguments.temperature >= 0.0 && arguments.temperature.is_finite()) {
        return Err(Failure::new(
            2,
            format!("--temperature is {}, and must be at least 0", arguments.temperature),
        ));
    }
    let signals = Signals::install(|_| {})
        .map_err(|error| Failure::new(1, format!("the signal handlers cannot be installed: {error}")))?;
    let checkpoint = checkpoint(&arguments.path)?;
    let place = arguments.path.display().to_string();
    let unusable = |error| Failure::about(1, &place, &error);
    let generator = Generator::from_checkpoint(&checkpoint, &place).map_err(unusable)?;
    drop(checkpoint);
    let options = GenerateOptions {
        max_new_tokens: arguments.max_new_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        seed: arguments.seed,
    };
    let out = RefCell::new(Output { begun: false, closed: false, failure: None });
    let text = generator.stream(
        &arguments.prompt,
        &options,
        &|| signals.is_stopping() || out.borrow().closed,
        &mut |text| {
            let mut out = out.borrow_mut();
            if !std::mem::replace(&mut out.begun, true) {
                out.write(&arguments.prompt);
            }
            out.write(text);
        },
    );
    text.map_err(|error| Failure::of(2, &error))?;
    let mut out = out.into_inner();
    out.write("\n");
    // What was written so far stands there; now the signal does what it does to any program.
    signals.raise();
    out.failure.map_or(Ok(()), Err)
}

/// Standard output, as far as someone reads it.
struct Output {
    begun: bool,
    closed: bool,
    failure: Option<Failure>,
}

impl Output {
    fn write(&mut self, text: &str) {
        if self.closed || text.is_empty() {
            return;
        }
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            self.closed = true;
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.failure = Some(Failure::new(1, format!("standard output cannot be written: {error}")));
            }
        }
    }
}

/// A file is itself; a folder its best model, or else its newest valid checkpoint.
pub(super) fn checkpoint(path: &Path) -> Result<keepstep::Checkpoint, Failure> {
    if !path.is_dir() {
        return load(path).map_err(|error| Failure::about(1, &path.display().to_string(), &error));
    }
    if let Ok(best) = load(&path.join(BEST_MODEL)) {
        return Ok(best);
    }
    let candidates = Candidates::new(path);
    match find(&Disk, &candidates).map_err(|error| Failure::of(1, &error))? {
        Some(found) => Ok(found.checkpoint),
        None => Err(Failure::new(1, format!("{}: there is no checkpoint in this folder", path.display()))),
    }
}
