//! Errors of a run.

use crate::identity::{CORPUS_FINGERPRINT, Difference};
use crate::position::Position;
use crate::remote::RemoteError;
use crate::store::{SourceError, StoreError};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A run that cannot start, continue or save.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no checkpoint where there should be one.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The folder cannot be used, or a checkpoint could not be saved.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The place that outlives the machine cannot be used, or is no longer this session's.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The journal cannot be opened.
    #[error("{path}: the journal cannot be opened")]
    Journal {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The thread that saves cannot be started.
    #[error("the thread that saves cannot be started")]
    Writer {
        /// The cause.
        source: io::Error,
    },
    /// The checkpoint has another config than the run.
    #[error("{path}: {}", differing(differences))]
    Config {
        /// The checkpoint.
        path: PathBuf,
        /// The keys whose values differ.
        differences: Vec<Difference>,
    },
    /// An input of the run has changed.
    #[error("{path}: {}", other_input(difference))]
    Input {
        /// The checkpoint.
        path: PathBuf,
        /// The input's name, and its values in the checkpoint and now.
        difference: Difference,
    },
    /// The config holds a value that a checkpoint cannot store.
    #[error("the config cannot be stored in a checkpoint")]
    Identity {
        /// The value that cannot be stored, and its place.
        source: keepstep_pt::NotStorable,
    },
    /// The checkpoint was computed by another numerics version.
    #[error(
        "{path}: it was computed by numerics version {saved}, and this keepstep has version {found}: continuing \
         would not end in the bytes of an uninterrupted run"
    )]
    Numerics {
        /// The checkpoint.
        path: PathBuf,
        /// The version in the checkpoint.
        saved: u64,
        /// The version of this program.
        found: u64,
    },
    /// The checkpoint's plan differs from that of config and corpus.
    #[error("{path}: `{what}` is {saved} in the checkpoint and {found} with this config and corpus")]
    Plan {
        /// The checkpoint.
        path: PathBuf,
        /// The name of the number.
        what: &'static str,
        /// Its value in the checkpoint.
        saved: u64,
        /// Its value with this config and corpus.
        found: u64,
    },
    /// A new run was requested in a folder with checkpoints.
    #[error("{folder}: a new run was requested, but this folder already has checkpoints")]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// A rewind was requested without a checkpoint to go back to.
    #[error("a rewind needs the checkpoint to go back to")]
    RewindNeedsCheckpoint,
    /// An evaluation does not have the metric that decides the best.
    #[error("the evaluation does not have `{metric}`, the metric that decides the best model")]
    Metric {
        /// The metric.
        metric: String,
    },
    /// A number is not finite. The update was neither recorded nor saved.
    #[error(
        "the {what} is not finite ({value}) in the update at {position}; the last good checkpoint is \
         {}", last.as_ref().map_or("none: the run had not saved yet".to_owned(), |path| path.display().to_string())
    )]
    NotFinite {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// The value.
        value: f64,
        /// The position before the update.
        position: Position,
        /// The last good checkpoint.
        last: Option<PathBuf>,
    },
}

impl RunError {
    /// Reports whether checkpoint and config do not match, or the remote cannot be used: the config, the folder or the
    /// environment must change.
    pub fn is_incompatible(&self) -> bool {
        match self {
            RunError::Config { .. }
            | RunError::Input { .. }
            | RunError::Numerics { .. }
            | RunError::Plan { .. } => true,
            RunError::Remote(error) => error.is_usage(),
            _ => false,
        }
    }
}

/// Describes a changed input. Inputs may be whole files, so only their beginnings are shown.
fn other_input(difference: &Difference) -> String {
    let value = |value: &Option<String>| match value {
        None => "missing".to_owned(),
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
        "the {what} is {} in the checkpoint and {} now, so the checkpoint belongs to another run",
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
