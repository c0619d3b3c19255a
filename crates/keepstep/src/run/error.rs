//! What ends a run before its time.

use crate::identity::{CORPUS_FINGERPRINT, Difference};
use crate::position::Position;
use crate::store::{SourceError, StoreError};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A run that cannot start, continue or save.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// Nothing to continue from where there should be.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The folder cannot be used, or a checkpoint could not be saved.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal cannot be opened.
    #[error("{path}: the journal cannot be opened")]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread that saves cannot be started.
    #[error("the thread that saves cannot be started")]
    Writer {
        /// Why not.
        source: io::Error,
    },
    /// The checkpoint belongs to another function.
    #[error("{path}: {}", differing(differences))]
    Config {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// An input is not the one that the run began with.
    #[error("{path}: {}", other_input(difference))]
    Input {
        /// The checkpoint.
        path: PathBuf,
        /// The input's name, and its values in the checkpoint and now.
        difference: Difference,
    },
    /// The config holds something that no checkpoint can.
    #[error("the config cannot be stored in a checkpoint")]
    Identity {
        /// What cannot be stored, and where it is.
        source: keepstep_pt::NotStorable,
    },
    /// The checkpoint was computed by another arithmetic.
    #[error(
        "{path}: it was computed by numerics version {saved}, and this keepstep has version {found}: continuing \
         would not end in the bytes of an uninterrupted run"
    )]
    Numerics {
        /// The checkpoint.
        path: PathBuf,
        /// The version in the checkpoint.
        saved: u64,
        /// Today's.
        found: u64,
    },
    /// The checkpoint's plan is not the one that config and corpus make.
    #[error("{path}: its {what} is {saved}, and config and corpus make it {found}")]
    Plan {
        /// The checkpoint.
        path: PathBuf,
        /// Which number.
        what: &'static str,
        /// Its value in the checkpoint.
        saved: u64,
        /// Its value today.
        found: u64,
    },
    /// A new run was asked for in a folder that has one.
    #[error("{folder}: a new run was asked for, and there are checkpoints in this folder already")]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// A rewind without saying where to.
    #[error("a rewind needs the checkpoint to go back to")]
    RewindNeedsCheckpoint,
    /// An evaluation does not have the metric that decides the best.
    #[error("the evaluation does not have `{metric}`, the metric that decides the best model")]
    Metric {
        /// The metric.
        metric: String,
    },
    /// A number that is not finite. Nothing of the update was recorded or saved.
    #[error(
        "the {what} is not finite ({value}) in the update at {position}; the last good checkpoint is \
         {}", last.as_ref().map_or("none: the run had not saved yet".to_owned(), |path| path.display().to_string())
    )]
    NotFinite {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// The value.
        value: f64,
        /// Where the update begins.
        position: Position,
        /// The last good checkpoint.
        last: Option<PathBuf>,
    },
}

impl RunError {
    /// Whether the checkpoint and the config do not belong together, so that the config (or the folder) must change.
    pub fn is_incompatible(&self) -> bool {
        matches!(
            self,
            RunError::Config { .. }
                | RunError::Input { .. }
                | RunError::Numerics { .. }
                | RunError::Plan { .. }
        )
    }
}

/// Inputs may be whole files: only their beginnings are shown.
fn other_input(difference: &Difference) -> String {
    let value = |value: &Option<String>| match value {
        None => "not there".to_owned(),
        Some(text) if text.chars().count() > 80 => {
            format!("{:?}…", text.chars().take(60).collect::<String>())
        }
        Some(text) => text.clone(),
    };
    let what = match difference.key.as_str() {
        CORPUS_FINGERPRINT => "corpus (its fingerprint)",
        name => name,
    };
    format!(
        "the {what} is {} in the checkpoint and {} now, so this is not the run that the checkpoint belongs to",
        value(&difference.saved),
        value(&difference.configured)
    )
}

fn differing(differences: &[Difference]) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
    let list: Vec<String> = differences
        .iter()
        .map(|difference| {
            let (saved, configured) = (value(&difference.saved), value(&difference.configured));
            format!("`{}` is {saved} in the checkpoint and {configured} in the config", difference.key)
        })
        .collect();
    list.join("; ")
}
