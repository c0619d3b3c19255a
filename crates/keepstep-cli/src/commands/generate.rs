//! `keepstep generate`: write text with a trained model.

use super::Failure;
use crate::arguments::GenerateArguments;
use crate::signals::Signals;
use keepstep::name::BEST_MODEL;
use keepstep::store::{Candidates, Disk, Source, find, load};
use keepstep_lm::generate::{GenerateOptions, Generator};
use std::path::Path;

pub(crate) fn run(arguments: &GenerateArguments) -> Result<(), Failure> {
    if !(arguments.temperature >= 0.0 && arguments.temperature.is_finite()) {
        return Err(Failure::new(
            2,
            format!("--temperature is {}, and must be at least 0", arguments.temperature),
        ));
    }
    let signals = Signals::install(|_| {})
        .map_err(|error| Failure::new(1, format!("the signal handlers cannot be installed: {error}")))?;
    let checkpoint = checkpoint(&arguments.path)?;
    let place = arguments.path.display().to_string();
    let unusable = |error| Failure::new(1, format!("{place}: {}", Failure::of(1, &error)));
    let generator = Generator::from_checkpoint(&checkpoint, &place).map_err(unusable)?;
    drop(checkpoint);
    let options = GenerateOptions {
        max_new_tokens: arguments.max_new_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        seed: arguments.seed,
    };
    let written = generator.generate(&arguments.prompt, &options, &|| signals.is_stopping());
    let text = written.map_err(|error| Failure::of(2, &error))?;
    super::print(&format!("{}{text}\n", arguments.prompt))?;
    // What was written so far stands there; now the signal does what it does to any program.
    signals.raise();
    Ok(())
}

/// A file is itself; a folder its best model, or else its newest valid checkpoint.
pub(super) fn checkpoint(path: &Path) -> Result<keepstep::Checkpoint, Failure> {
    if !path.is_dir() {
        return load(path)
            .map_err(|error| Failure::new(1, format!("{}: {}", path.display(), Failure::of(1, &error))));
    }
    if let Ok(best) = load(&path.join(BEST_MODEL)) {
        return Ok(best);
    }
    let candidates = Candidates { folder: path, source: &Source::None, source_only: false };
    match find(&Disk, &candidates).map_err(|error| Failure::of(1, &error))? {
        Some(found) => Ok(found.checkpoint),
        None => Err(Failure::new(1, format!("{}: there is no checkpoint in this folder", path.display()))),
    }
}
