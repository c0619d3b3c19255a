//! The `keepstep` program, for the console script of the wheel.

use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs the program with this command line and gives its exit status. The first item is the program's name; `program` are
/// the words that start it again.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, command_line: Vec<OsString>, program: Vec<OsString>) -> u8 {
    py.detach(|| keepstep_cli::run(command_line, program))
}
