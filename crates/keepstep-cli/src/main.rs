//! The `keepstep` program: reads the command line, calls the libraries, prints.
//!
//! Results go to standard output, everything else to standard error.

mod arguments;
mod banner;
mod commands;
mod progress;
mod signals;
mod table;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Where the handler cannot be installed, the system's default stays.
    let _ = signals::report_large_files_as_errors();
    match commands::run(arguments::Arguments::parse().command) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            progress::say(&format!("keepstep: {failure}"));
            ExitCode::from(failure.status())
        }
    }
}
