//! How a place is reached.

/// The settings of a remote. Secrets are not among them: they come from the environment and the clouds' own files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The place, for example `s3://bucket/run`.
    pub url: String,
    /// The server, for stores other than the cloud's own.
    pub endpoint: Option<String>,
    /// The region of the bucket.
    pub region: Option<String>,
    /// Whether the user guarantees that there is one writer: for stores that ignore conditions on writes.
    pub single_writer: bool,
}

impl Settings {
    /// The cloud's own server, in the region that the environment names.
    pub fn new(url: &str) -> Settings {
        Settings { url: url.to_owned(), ..Settings::default() }
    }
}
