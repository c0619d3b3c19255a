//! The place that outlives the machine. These are settings alone: the program connects to it.

use keepstep::settings;
use serde::{Deserialize, Serialize};

settings! {
    /// A copy of the run in an object store or another folder. `remote = "URL"` sets the URL alone.
    pub struct RemoteConfig {
        /// The place, for example `s3://bucket/run`. Without it there is no copy.
        runtime url: Option<String> = None,
        /// The server, for stores other than the cloud's own.
        runtime endpoint: Option<String> = None,
        /// The region of the bucket.
        runtime region: Option<String> = None,
        /// The user's guarantee that only one session writes at a time, for stores that cannot ensure it.
        runtime single_writer: bool = false,
        /// Whether a run continues when its copy fails.
        runtime on_error: OnRemoteError = OnRemoteError::Continue,
        /// The most updates that the copy may be behind. Training waits for it.
        runtime max_lag: Option<u64> = None,
    }
}

/// Whether a run continues when its copy fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRemoteError {
    /// Never end the run because of it.
    Continue,
    /// End the run after three failures in a row.
    Stop,
}

/// Turns `remote = "URL"` into `[remote] url = "URL"`.
pub(super) fn expand_short_form(table: &mut toml::Table) {
    if let Some(toml::Value::String(url)) = table.get("remote") {
        let url = toml::Value::String(url.clone());
        table.insert("remote".to_owned(), toml::Table::from_iter([("url".to_owned(), url)]).into());
    }
}

/// The key that an override sets. `remote=URL` is short for `remote.url=URL`, and keeps the other keys of the table.
pub(super) fn long_key<'a>(key: &'a str, value: &str) -> &'a str {
    if key == "remote" && !value.trim_start().starts_with('{') { "remote.url" } else { key }
}
