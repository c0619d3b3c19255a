//! `keepstep branch`: a new run that starts from a checkpoint, with changed keys.

use super::{Failure, quoted, train::failure};
use crate::arguments::BranchArguments;
use keepstep_lm::trainer::branch;

pub(crate) fn run(arguments: &BranchArguments) -> Result<(), Failure> {
    let path =
        branch(&arguments.checkpoint, &arguments.set, &arguments.out).map_err(|error| failure(&error))?;
    let set: Vec<String> = arguments
        .set
        .iter()
        .map(|(key, value)| format!(" --set {}", quoted(&format!("{key}={value}"))))
        .collect();
    let out = quoted(&format!("output_dir={}", arguments.out.display()));
    super::print(&format!(
        "Made {}\nGo on with the config of the old run:\n  keepstep train CONFIG.toml --set {out}{}\n",
        path.display(),
        set.concat()
    ))
}
