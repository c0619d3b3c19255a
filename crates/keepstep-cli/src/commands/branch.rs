//! `keepstep branch`: a new run that starts from a checkpoint, with changed keys.

use crate::arguments::BranchArguments;
use crate::failure::Failure;
use crate::format::quoted;
use crate::hints::branch_hint;
use crate::output;
use keepstep_lm::trainer::branch;

pub(crate) fn run(arguments: &BranchArguments) -> Result<(), Failure> {
    let made = branch(&arguments.checkpoint, &arguments.set, &arguments.out);
    let path = made.map_err(|error| match branch_hint(&error) {
        Some(hint) => Failure::from(&error).with(hint),
        None => Failure::from(&error),
    })?;
    let set: Vec<String> = arguments
        .set
        .iter()
        .map(|(key, value)| format!(" --set {}", quoted(&format!("{key}={value}"))))
        .collect();
    let out = quoted(&format!("output_dir={}", arguments.out.display()));
    output::print(&format!(
        "Made {}\nTo continue, use the config of the old run:\n  keepstep train CONFIG.toml --set {out}{}\n",
        path.display(),
        set.concat()
    ))
}
