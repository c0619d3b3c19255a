//! How this process was started, for what it prints and for starting itself again.

use std::ffi::OsString;
use std::io;
use std::process::Command;
use std::sync::OnceLock;

static COMMAND_LINE: OnceLock<Vec<OsString>> = OnceLock::new();
static PROGRAM: OnceLock<Vec<OsString>> = OnceLock::new();

/// Sets the command line, and the words that start the program where that is not this process's own file.
pub(crate) fn set(command_line: Vec<OsString>, program: Vec<OsString>) {
    let _ = COMMAND_LINE.set(command_line);
    let _ = PROGRAM.set(program);
}

/// The command line as people typed it.
pub(crate) fn command_line() -> Vec<String> {
    let line = COMMAND_LINE.get().cloned().unwrap_or_else(|| std::env::args_os().collect());
    line.into_iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The Python that runs this program, if it was started as `python -m keepstep`.
pub(crate) fn python() -> Option<OsString> {
    let words = PROGRAM.get()?;
    words.iter().any(|word| word == "-m").then(|| words.first().cloned()).flatten()
}

/// A command that starts the program once more, still without arguments.
pub(crate) fn program() -> io::Result<Command> {
    match PROGRAM.get().and_then(|words| words.split_first()) {
        Some((program, words)) => {
            let mut command = Command::new(program);
            command.args(words);
            Ok(command)
        }
        None => Ok(Command::new(std::env::current_exe()?)),
    }
}
