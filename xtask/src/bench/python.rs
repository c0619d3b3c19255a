//! The Python package next to a bare PyTorch loop and to other trainers. The scripts are in `python/benches`.

use crate::command::run;
use crate::{machine, python};

/// What keepstep costs in a loop, per save and at a resume.
pub(super) fn overhead(arguments: &[String]) -> Result<(), String> {
    run(python::bench(&machine::package_python()?, "overhead.py")?.args(arguments))
}

/// The same interrupted run in several trainers.
pub(super) fn peers(arguments: &[String]) -> Result<(), String> {
    run(python::bench(&machine::peers_python()?, "peers.py")?.args(arguments))
}

/// The sum of gradients over processes, next to stock DDP.
pub(super) fn distributed(arguments: &[String]) -> Result<(), String> {
    run(python::bench(&machine::package_python()?, "distributed.py")?.args(arguments))
}

/// Crashes at every file event of other people's trainers, with keepstep and without.
pub(super) fn crashes(arguments: &[String]) -> Result<(), String> {
    run(python::bench(&machine::peers_python()?, "crashes.py")?.args(arguments))
}
