//! Writes results to standard output and everything else to standard error.

use crate::failure::Failure;
use std::io::{self, Write};

/// Writes a result to standard output. A reader that stops reading (`| head`) is not an error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(1, format!("standard output cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints JSON as a result.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

/// Writes a line to standard error. Errors are ignored: a closed terminal must not stop training.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The width of the terminal on standard output, or None if it is not a terminal.
pub(crate) fn terminal_width() -> Option<usize> {
    let (terminal_size::Width(width), _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(usize::from(width))
}

/// The width of the terminal on standard error, or 80 if it is not a terminal.
pub(crate) fn stderr_width() -> usize {
    let size = terminal_size::terminal_size_of(io::stderr());
    size.map_or(80, |(terminal_size::Width(width), _)| usize::from(width.max(1)))
}

/// Whether standard error is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}
