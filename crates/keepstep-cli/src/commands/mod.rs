//! One file per command.

mod branch;
mod continuation;
mod diff;
mod dry_run;
#[cfg(feature = "hub")]
mod export;
mod failure;
mod generate;
pub(crate) mod hints;
mod history;
mod import;
mod inspect;
mod list;
mod prove;
mod report;
mod train;
mod verify;

pub(crate) use failure::Failure;

use crate::arguments::Command;
use std::io::{self, Write};

/// The exit statuses that are not a failure's.
pub(crate) mod status {
    /// Done.
    pub(crate) const DONE: u8 = 0;
    /// `diff` found a difference.
    pub(crate) const DIFFERENT: u8 = 1;
    /// Stopped early, and the same command goes on: EX_TEMPFAIL of sysexits.h.
    pub(crate) const RESUMABLE: u8 = 75;
    /// Stopped by Ctrl-C where the signal cannot be raised again.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Runs a command and gives the program's exit status.
pub(crate) fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Train(arguments) if arguments.dry_run => dry_run::run(&arguments).map(|()| status::DONE),
        Command::Train(arguments) => train::run(&arguments),
        Command::Branch(arguments) => branch::run(&arguments).map(|()| status::DONE),
        Command::Import(arguments) => import::run(&arguments).map(|()| status::DONE),
        #[cfg(feature = "hub")]
        Command::Export(arguments) => export::run(&arguments).map(|()| status::DONE),
        Command::Generate(arguments) => generate::run(&arguments).map(|()| status::DONE),
        Command::List { run, json } => list::run(&run, json).map(|()| status::DONE),
        Command::Inspect { checkpoint, json } => inspect::run(&checkpoint, json).map(|()| status::DONE),
        Command::Prove(arguments) => prove::run(&arguments).map(|()| status::DONE),
        Command::History { run, json } => history::run(&run, json).map(|()| status::DONE),
        Command::Report { run, out } => report::run(&run, &out).map(|()| status::DONE),
        Command::Verify { path } => verify::run(&path).map(|()| status::DONE),
        Command::Diff { left, right } => {
            diff::run(&left, &right).map(|same| if same { status::DONE } else { status::DIFFERENT })
        }
    }
}

/// Writes a result to standard output. A reader that has gone away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(1, format!("standard output cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// As a shell takes it for one word.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=./_-,:+@%".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("optimizer.learning_rate=1e-4"), "optimizer.learning_rate=1e-4");
        assert_eq!(quoted("a=[1, 2]"), "'a=[1, 2]'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
