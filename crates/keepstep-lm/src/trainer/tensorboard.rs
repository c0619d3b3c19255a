//! TensorBoard's files next to a run, if this crate is built with the feature `tensorboard`.

use crate::config::Config;
use std::path::Path;

#[cfg(feature = "tensorboard")]
pub(super) use keepstep_tensorboard::JournalTail;

/// Starts to write the event files of the run in `folder`, if the config asks for them.
#[cfg(feature = "tensorboard")]
pub(super) fn follow(config: &Config, folder: &Path) -> Option<JournalTail> {
    config.tensorboard.then(|| JournalTail::new(folder))
}

/// A type without values, in place of the real one.
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

/// Returns `None`. Without the feature no files are written, whatever the config says, and results are the same.
#[cfg(not(feature = "tensorboard"))]
pub(super) fn follow(_config: &Config, _folder: &Path) -> Option<JournalTail> {
    None
}
