//! A place that outlives the machine, as a run sees it. The crate `keepstep-remote` has object stores.
//!
//! A [`Remote`] is asked for a later checkpoint before a run is opened. It then gives a [`Mirror`], which copies each
//! save while training continues.

use crate::position::Position;
use crate::store::Retention;
use std::fmt::{self, Debug};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// A place outside this machine that holds a copy of a run.
pub trait Remote: Debug + Send + Sync {
    /// The URL, without secrets.
    fn url(&self) -> &str;

    /// The global step of the newest checkpoint there. None if there is none.
    ///
    /// # Errors
    /// The place cannot be read.
    fn newest(&self) -> Result<Option<u64>, RemoteError>;

    /// Brings what a run in `folder` needs: the newest checkpoint, if it is later than `newest_here`, the best model and
    /// the tokenizer with it, and the journal. The folder exists, and the caller holds its lock.
    ///
    /// # Errors
    /// The place cannot be read, or a file cannot be written. Files that are there are untouched.
    fn fetch(&self, folder: &Path, newest_here: Option<u64>) -> Result<Fetched, RemoteError>;

    /// Becomes the only writer there.
    ///
    /// # Errors
    /// Another run is there, or the place cannot be written to.
    fn attach(&self, facts: &Facts) -> Result<Box<dyn Mirror>, RemoteError>;
}

/// What [`Remote::fetch`] has brought.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Fetched {
    /// The new files.
    pub files: Vec<PathBuf>,
    /// Facts for people.
    pub notes: Vec<String>,
}

impl Fetched {
    /// States what was brought.
    pub fn new(files: Vec<PathBuf>, notes: Vec<String>) -> Fetched {
        Fetched { files, notes }
    }
}

/// What a place must know of a run that writes to it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Facts {
    /// The run's id: see [`Run::id`](crate::Run::id).
    pub run: String,
    /// The run's folder.
    pub folder: PathBuf,
    /// The global step that a rewind went back to. Later checkpoints there are superseded.
    pub rewound_to: Option<u64>,
    /// Whether the run is new: checkpoints there are an error.
    pub is_new: bool,
}

impl Facts {
    /// The facts of a run that continues, or begins, in a folder.
    pub fn new(run: &str, folder: &Path) -> Facts {
        Facts { run: run.to_owned(), folder: folder.to_path_buf(), rewound_to: None, is_new: false }
    }
}

/// Copies the saves of a run to another place while training continues. At most one save waits: a newer one takes its
/// place. Dropping it gives up what is under way.
pub trait Mirror: Debug + Send {
    /// The digits that name this session there.
    fn session(&self) -> &str;

    /// Takes a save, and returns at once.
    fn submit(&mut self, snapshot: Snapshot);

    /// What has happened since the last call, oldest first.
    fn reports(&mut self) -> Vec<PushReport>;

    /// How long the copy in progress has taken so far, up to the last answer of the other place. None if nothing is under
    /// way and nothing waits.
    fn pushing_for(&self) -> Option<Duration>;

    /// Waits until everything is copied, several attempts in a row have failed, no answer has come for long, or `until`.
    /// Returns false if `until` ended the wait, and true if waiting longer would change nothing.
    fn wait(&mut self, until: Option<Instant>) -> bool;

    /// Copies what is left of the folder, the end of the journal and `status.json`, and ends the session there. Waits as
    /// [`Mirror::wait`] does.
    fn finish(&mut self, journal_bytes: u64, retention: Option<Retention>, until: Option<Instant>);
}

/// What one save has left in the run's folder.
#[derive(Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The position of the run.
    pub position: Position,
    /// Names and open files: rotation may remove the names meanwhile.
    pub files: Vec<(String, File)>,
    /// The length of the journal, which holds everything up to the position.
    pub journal_bytes: u64,
    /// Which checkpoints to keep.
    pub retention: Option<Retention>,
}

impl Snapshot {
    /// Describes a save.
    pub fn new(
        position: Position,
        files: Vec<(String, File)>,
        journal_bytes: u64,
        retention: Option<Retention>,
    ) -> Snapshot {
        Snapshot { position, files, journal_bytes, retention }
    }
}

/// What has become of a save in the other place.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PushReport {
    /// The files are there, were verified there, and are named.
    Pushed {
        /// The names of the files that are new there.
        files: Vec<String>,
        /// The position of the save.
        global_step: u64,
        /// Bytes that were sent.
        bytes: u64,
        /// How long it took.
        took: Duration,
    },
    /// A save was not copied, because a newer one was there before its turn came.
    Skipped {
        /// The checkpoint.
        file: String,
        /// Its position.
        global_step: u64,
    },
    /// An attempt has failed. Another follows.
    Failed {
        /// The position of the save.
        global_step: u64,
        /// Why.
        error: String,
        /// Failures in a row.
        in_a_row: u32,
    },
    /// Another session has become the writer. Nothing more is copied and nothing is deleted.
    TakenOver {
        /// The sentence.
        error: String,
    },
    /// A fact for people.
    Note {
        /// The sentence.
        text: String,
    },
}

impl fmt::Display for PushReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PushReport::Pushed { files, bytes, took, .. } => write!(
                f,
                "Pushed {} ({:.1} MB in {:.1} s)",
                if files.is_empty() { "the journal".to_owned() } else { files.join(", ") },
                *bytes as f64 / 1e6,
                took.as_secs_f64()
            ),
            PushReport::Skipped { file, .. } => {
                write!(f, "Not pushed yet: {file} (a newer checkpoint goes first)")
            }
            PushReport::Failed { error, in_a_row, .. } => {
                write!(f, "NOT PUSHED ({in_a_row} in a row): {error}")
            }
            PushReport::TakenOver { error } => f.write_str(error),
            PushReport::Note { text } => f.write_str(text),
        }
    }
}

/// A remote, and how strict a run is about it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RemotePolicy {
    /// The place.
    pub remote: Arc<dyn Remote>,
    /// Whether several failures in a row end the run.
    pub stop_on_error: bool,
    /// The most updates that the newest copy may be behind the newest save. Training waits for it. None never waits.
    pub max_lag: Option<u64>,
}

impl RemotePolicy {
    /// Failures never end the run, and training never waits.
    pub fn new(remote: Arc<dyn Remote>) -> RemotePolicy {
        RemotePolicy { remote, stop_on_error: false, max_lag: None }
    }
}

/// A remote that cannot be used.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The settings or the environment must change.
    #[error("{url}: {what}")]
    Unusable {
        /// The place.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// Another run is there.
    #[error("{url}: it holds another run ({theirs}); this run is {ours}")]
    OtherRun {
        /// The place.
        url: String,
        /// The id of the run there.
        theirs: String,
        /// The id of this run.
        ours: String,
    },
    /// A new run was requested, and the place has checkpoints.
    #[error("{url}: a new run was requested, but there are checkpoints of it already")]
    NotEmpty {
        /// The place.
        url: String,
    },
    /// Another session writes there.
    #[error("{url}: {host} (process {pid}) has been the writer there since {since}")]
    TakenOver {
        /// The place.
        url: String,
        /// The machine of the other session.
        host: String,
        /// Its process.
        pid: u32,
        /// When it began (UTC).
        since: String,
    },
    /// A request has failed.
    #[error("{url}: {what}")]
    Failed {
        /// The place.
        url: String,
        /// What has failed, and why.
        what: String,
    },
}

impl RemoteError {
    /// Reports whether the settings or the environment must change: trying again does not help.
    pub fn is_usage(&self) -> bool {
        !matches!(self, RemoteError::Failed { .. } | RemoteError::TakenOver { .. })
    }
}
