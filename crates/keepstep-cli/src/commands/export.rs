//! `keepstep export`: write a checkpoint's weights for other programs.

use crate::arguments::{ExportArguments, ExportFormat};
use crate::checkpoints;
use crate::failure::Failure;
use crate::output;
use keepstep_lm::hub::export::{Format, export};

pub(crate) fn run(arguments: &ExportArguments) -> Result<(), Failure> {
    let format = match arguments.format {
        ExportFormat::Hf => Format::HuggingFace,
        ExportFormat::Safetensors => Format::Safetensors,
    };
    let place = arguments.checkpoint.display().to_string();
    let written = checkpoints::with_model(&arguments.checkpoint, |checkpoint| {
        export(checkpoint, &place, format, &arguments.out).map_err(|error| Failure::about(1, &place, &error))
    })?;
    let list: String = written.iter().map(|path| format!("{}\n", path.display())).collect();
    output::print(&list)
}
