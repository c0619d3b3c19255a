//! What the program writes: results on standard output, everything else on standard error.

use crate::failure::Failure;
use std::io::{self, Write};

/// Writes a result to standard output. A reader that has gone away (`| head`) is no failure.
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

/// Writes a line on standard error. A terminal that was closed, or a reader that has gone away, stops nothing.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The width of the terminal on standard output; None where it is none.
pub(crate) fn terminal_width() -> Option<usize> {
    let (terminal_size::Width(width), _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(usize::from(width))
}

/// The width of the terminal on standard error; 80 if it is no terminal.
pub(crate) fn stderr_width() -> usize {
    let size = terminal_size::terminal_size_of(io::stderr());
    size.map_or(80, |(terminal_size::Width(width), _)| usize::from(width.max(1)))
}
