//! What makes a config unusable.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a config cannot be used. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: the config cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        message: String,
    },
    /// The config has no such key.
    #[error("`{key}` is not a key of the config{}", nearest.as_ref().map_or(String::new(), |near| format!("; did you mean `{near}`?")))]
    UnknownKey {
        /// The key, dotted.
        key: String,
        /// The known key with the most similar spelling.
        nearest: Option<String>,
    },
    /// A value of the wrong type.
    #[error("`{key}`: {message}")]
    Type {
        /// The key, dotted.
        key: String,
        /// What was expected.
        message: String,
    },
    /// A required key is not set.
    #[error("`{key}` is missing: {what}")]
    Missing {
        /// The key, dotted.
        key: &'static str,
        /// What it sets.
        what: &'static str,
    },
    /// A value that is out of range.
    #[error("`{key}` is {value}, and must be {expected}")]
    Range {
        /// The key, dotted.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// The weights to begin with cannot be used.
    #[error("`init_from`: {path}")]
    InitFrom {
        /// The path, expanded.
        path: PathBuf,
        /// What is wrong with them.
        source: Box<crate::hub::HubError>,
    },
    /// A variable of the environment that is not set.
    #[error(transparent)]
    Variable(#[from] keepstep::settings::UnsetVariable),
}
