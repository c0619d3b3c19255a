//! Starts the `keepstep` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    keepstep_cli::main(std::env::args_os())
}
