//! `keepstep import`: make a run from a checkpoint of a PyTorch training loop.

use crate::arguments::{ImportArguments, StepIs};
use crate::failure::Failure;
use crate::format::quoted;
use crate::progress::Progress;
use crate::{hints, output};
use keepstep_lm::Config;
use keepstep_lm::import::{StepConvention, import};

pub(crate) fn run(arguments: &ImportArguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.config, &arguments.set)?;
    let counting = StepConvention {
        epoch_base: arguments.epoch_base,
        step_is_index: arguments.step_is.map(|step_is| step_is == StepIs::Index),
        round_down: arguments.round_down,
    };
    let mut progress = Progress::new();
    let made = import(&arguments.file, &config, &arguments.out, counting, &mut progress, &|| false);
    progress.finish();
    let made = made.map_err(|error| hints::failure(&error, &config))?;
    output::print(&format!(
        "Made {}\nTo continue:\n  keepstep train {} --set {}\n",
        made.display(),
        quoted(&arguments.config.display().to_string()),
        quoted(&format!("output_dir={}", arguments.out.display())),
    ))
}
