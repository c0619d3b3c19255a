//! Facts for people about how a run was opened.

use crate::metrics::Objective;
use crate::position::Position;
use crate::store::{MissingOperation, Skipped};
use std::fmt;
use std::path::PathBuf;

/// A fact about how a run was opened. As text it is one sentence.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Notice {
    /// A checkpoint cannot be used, and an older one was taken.
    Skipped(Skipped),
    /// The run's folder has a later checkpoint than the source, and the run continues from the later one.
    LaterThanSource {
        /// The checkpoint.
        path: PathBuf,
        /// The source.
        source: PathBuf,
    },
    /// A rewind has moved a later checkpoint out of the way.
    Moved {
        /// The new path.
        path: PathBuf,
    },
    /// The best model was copied into the run's folder.
    CopiedBest {
        /// The new path.
        path: PathBuf,
    },
    /// The best model that the checkpoint refers to was not found.
    NoBest {
        /// The position of the best evaluation.
        position: Position,
        /// The metric that decides the best.
        objective: Objective,
        /// Its value.
        value: f64,
        /// The path of the best model. The next better one is saved there.
        path: PathBuf,
        /// The position and value of the best model at that path, if it belongs to this run.
        present: Option<(Position, f64)>,
    },
    /// The journal next to the source could not be copied.
    JournalNotCopied {
        /// The journal.
        path: PathBuf,
        /// The run's folder.
        folder: PathBuf,
        /// Why it could not be copied.
        reason: String,
    },
    /// The run continues with another numerics version than the checkpoint's.
    OtherNumerics {
        /// The checkpoint's version.
        saved: u64,
        /// Today's.
        found: u64,
    },
    /// A fact about the place that outlives the machine.
    Remote {
        /// A description.
        text: String,
    },
    /// An operation that the folder's file system does not have.
    FileSystem {
        /// The operation.
        missing: MissingOperation,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Skipped(file) => write!(f, "Skipped {}: {}", file.path.display(), file.reason),
            Notice::LaterThanSource { path, source } => {
                write!(f, "{} is later than {}: continuing from there", path.display(), source.display())
            }
            Notice::Moved { path } => write!(f, "Moved to {}", path.display()),
            Notice::CopiedBest { path } => write!(f, "Copied the best model to {}", path.display()),
            Notice::NoBest { position, objective, value, path, present } => {
                let metric = &objective.metric;
                write!(f, "The best model so far ({metric} {value:.4} at {position}) is missing: ")?;
                if let Some((position, value)) = present {
                    write!(f, "{} is from {position} ({metric} {value:.4}) and", path.display())?;
                } else {
                    write!(f, "{}", path.display())?;
                }
                f.write_str(" will hold the next better one")
            }
            Notice::JournalNotCopied { path, folder, reason } => {
                write!(f, "{} could not be copied to {}: {reason}", path.display(), folder.display())
            }
            Notice::OtherNumerics { saved, found } => write!(
                f,
                "The checkpoint was computed by numerics version {saved}, and this keepstep has version {found}: the \
                 run will not end in the bytes of an uninterrupted one"
            ),
            Notice::FileSystem { missing } => missing.fmt(f),
            Notice::Remote { text } => f.write_str(text),
        }
    }
}
