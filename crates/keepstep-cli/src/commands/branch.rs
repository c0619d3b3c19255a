//! `keepstep branch`: a new run that starts from a checkpoint, with changed keys.

use super::hints::branch_hint;
use super::{Failure, quoted, train::failure};
use crate::arguments::BranchArguments;
use keepstep_lm::trainer::branch;

pub(crate) fn run(arguments: &BranchArguments) -> Result<(), Failure> {
    let made = branch(&arguments.checkpoint, &arguments.set, &arguments.out);
    let path = made.map_err(|error| match branch_hint(&error) {
        Some(hint) => failure(&error).with(hint),
        None => failure(&error),
    })?;
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
