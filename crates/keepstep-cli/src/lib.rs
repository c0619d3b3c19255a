//! The `keepstep` program: reads the command line, calls the libraries, prints.
//!
//! Results go to standard output, everything else to standard error. The program is a library function because the Python
//! package runs it too.

mod arguments;
mod bundle;
mod checkpoints;
mod commands;
mod continuation;
mod failure;
mod format;
mod hints;
mod invocation;
mod output;
mod progress;
mod python;
mod remote;
mod signals;
mod table;

pub use commands::KillPlan;

use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the program with its command line, whose first item is the program's name. Ends the process for `--help` and for
/// a command line that cannot be used.
pub fn main(command_line: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(run(command_line, Vec::new()))
}

/// Like [`main`], but gives the exit status as a number. `program` is what starts the program: empty for this process's own
/// file, or for example `python -m keepstep`.
pub fn run(command_line: impl IntoIterator<Item = OsString>, program: Vec<OsString>) -> u8 {
    let command_line: Vec<OsString> = command_line.into_iter().collect();
    invocation::set(command_line.clone(), program);
    // Without the handler, the system's default applies: the signal ends the program.
    let _ = signals::report_large_files_as_errors();
    match commands::run(arguments::Arguments::parse_from(command_line).command) {
        Ok(status) => status,
        Err(failure) => {
            output::say(&format!("keepstep: {failure}"));
            failure.status()
        }
    }
}
