//! `keepstep generate`: generate text with a trained model.

use crate::arguments::GenerateArguments;
use crate::checkpoints;
use crate::failure::Failure;
use crate::signals::Signals;
use keepstep_lm::generate::{GenerateOptions, Generator};
use std::cell::RefCell;
use std::io::{self, Write};

/// The line between two texts, which nanoGPT prints too.
const SEPARATOR: &str = "\n---------------\n";

/// Prints each token of a single text as it is generated, and several texts one after the other. Ctrl-C stops after the
/// current token and ends the program like the signal.
pub(crate) fn run(arguments: &GenerateArguments) -> Result<(), Failure> {
    if !(arguments.temperature >= 0.0 && arguments.temperature.is_finite()) {
        return Err(Failure::new(
            2,
            format!("--temperature is {}, but must be a number of at least 0", arguments.temperature),
        ));
    }
    let signals = Signals::install(|_| {})?;
    let place = arguments.path.display().to_string();
    let generator = checkpoints::with_model(&arguments.path, |checkpoint| {
        Generator::from_checkpoint(checkpoint, &place).map_err(|error| Failure::about(1, &place, &error))
    })?;
    let options = GenerateOptions {
        max_new_tokens: arguments.max_new_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        seed: arguments.seed,
    };
    let out = RefCell::new(Output { begun: false, closed: false, failure: None });
    let stop = || signals.is_stopping() || out.borrow().closed;
    let written = if arguments.num_samples == 1 {
        let write = &mut |text: &str| {
            let mut out = out.borrow_mut();
            if !std::mem::replace(&mut out.begun, true) {
                out.write(&arguments.prompt);
            }
            out.write(text);
        };
        generator.stream(&arguments.prompt, &options, &stop, write).map(|_| ())
    } else {
        let print = &mut |text: String| {
            let mut out = out.borrow_mut();
            let separator = if std::mem::replace(&mut out.begun, true) { SEPARATOR } else { "" };
            out.write(&format!("{separator}{}{text}", arguments.prompt));
        };
        generator.samples(&arguments.prompt, &options, arguments.num_samples as usize, &stop, print)
    };
    written.map_err(|error| Failure::of(2, &error))?;
    let mut out = out.into_inner();
    out.write("\n");
    // The text so far is printed. Now the signal takes its default action.
    signals.raise();
    out.failure.map_or(Ok(()), Err)
}

/// Standard output, until its reader stops reading.
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
