//! Resuming from a file of another program.

use crate::config::Config;
use crate::hub::weight_files;
use crate::import::{StepConvention, import, is_notebook_checkpoint};
use crate::trainer::{Observer, TrainError};
use keepstep::name::{BEST_MODEL, Name};
use keepstep::run::Resume;
use keepstep::store::Source;
use keepstep_pt::{Dict, File, Value};
use std::path::Path;

/// How a session handles its source.
pub(crate) enum Taken {
    /// Resume from it.
    AsAsked,
    /// Import it: it is a notebook's checkpoint, and the folder has no run yet.
    Import,
    /// Continue the run in the folder: the source is a notebook's checkpoint that was imported before.
    Imported,
}

/// Inspects the source.
///
/// # Errors
/// Fails if the source holds only weights, from which no run can continue.
pub(crate) fn inspect(resume: &Resume, folder: &Path) -> Result<Taken, TrainError> {
    let (Resume::Newest(Source::Path(path)) | Resume::Rewind(Source::Path(path))) = resume else {
        return Ok(Taken::AsAsked);
    };
    if path.is_file() {
        weight_files::refuse_lfs_pointer(path)
            .map_err(|source| TrainError::Hub { path: path.clone(), source })?;
    }
    if holds_weights_only(path) {
        return Err(TrainError::WeightsAlone { path: path.clone() });
    }
    match resume {
        Resume::Newest(_) if !is_notebook_checkpoint(path) => Ok(Taken::AsAsked),
        Resume::Newest(_) if has_checkpoint(folder) => Ok(Taken::Imported),
        Resume::Newest(_) => Ok(Taken::Import),
        _ => Ok(Taken::AsAsked),
    }
}

/// Imports the source if it is a notebook's checkpoint. Returns the source from which the session then resumes.
///
/// # Errors
/// See [`import`].
pub(crate) fn take_over(
    resume: Resume,
    config: &Config,
    folder: &Path,
    observer: &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Resume, TrainError> {
    let here = Resume::Newest(Source::None);
    match (inspect(&resume, folder)?, &resume) {
        (Taken::Import, Resume::Newest(Source::Path(path))) => {
            let made = import(path, config, folder, StepConvention::default(), observer, stop)?;
            observer.note(&format!("Imported {} as {}", path.display(), made.display()));
            Ok(here)
        }
        (Taken::Imported, _) => Ok(here),
        _ => Ok(resume),
    }
}

fn has_checkpoint(folder: &Path) -> bool {
    let is_checkpoint = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.map(|entry| entry.file_name());
        name.is_ok_and(|name| {
            name.to_str().is_some_and(|name| name == BEST_MODEL || Name::parse(name).is_some())
        })
    };
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.any(is_checkpoint))
}

/// Reports whether a path holds only weights: a folder of the hub, a safetensors file, or a state dict of tensors.
fn holds_weights_only(path: &Path) -> bool {
    if path.is_dir() {
        return !has_checkpoint(path) && weight_files::find(path).is_ok();
    }
    let is_safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
    let is_state_dict =
        |root: &Dict| !root.is_empty() && root.iter().all(|(_, value)| matches!(value, Value::Tensor(_)));
    path.is_file()
        && (is_safetensors
            || File::open(path).is_ok_and(|file| file.value().as_dict().is_some_and(is_state_dict)))
}
