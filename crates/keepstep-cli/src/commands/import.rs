//! `keepstep import`: make a run of a checkpoint that a PyTorch loop saved.

use super::{Failure, train::failure_with_hint};
use crate::arguments::{ImportArguments, StepIs};
use crate::progress::Progress;
use keepstep_lm::Config;
use keepstep_lm::import::{StepConvention, import};

pub(crate) fn run(arguments: &ImportArguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.config, &arguments.set).map_err(|error| Failure::of(2, &error))?;
    let counting = StepConvention {
        epoch_base: arguments.epoch_base,
        step_is_index: arguments.step_is.map(|step_is| step_is == StepIs::Index),
        round_down: arguments.round_down,
    };
    let mut progress = Progress::new();
    let made = import(&arguments.file, &config, &arguments.out, counting, &mut progress, &|| false);
    progress.finish();
    let made = made.map_err(|error| failure_with_hint(&error, &config))?;
    super::print(&format!(
        "Made {}\nGo on with:\n  keepstep train {} --set {}\n",
        made.display(),
        super::quoted(&arguments.config.display().to_string()),
        super::quoted(&format!("output_dir={}", arguments.out.display())),
    ))
}
