//! TensorBoard's files next to a run, where this crate is built with the feature `tensorboard`.

use crate::config::Config;
use std::path::Path;

#[cfg(feature = "tensorboard")]
pub(super) use keepstep_tensorboard::JournalTail;

/// Writes the files of the run in `folder`, where the config wants them.
#[cfg(feature = "tensorboard")]
pub(super) fn follow(config: &Config, folder: &Path) -> Option<JournalTail> {
    config.tensorboard.then(|| JournalTail::new(folder))
}

/// Nothing: there is no value of it.
#[cfg(not(feature = "tensorboard"))]
pub(super) enum JournalTail {}

#[cfg(not(feature = "tensorboard"))]
impl JournalTail {
    pub(super) fn finish(&mut self) {
        match *self {}
    }

    pub(super) fn take_failure(&mut self) -> Option<String> {
        match *self {}
    }
}

/// Without the feature no files are written, whatever the config says: they change nothing in a run.
#[cfg(not(feature = "tensorboard"))]
pub(super) fn follow(_config: &Config, _folder: &Path) -> Option<JournalTail> {
    None
}
