//! The place that outlives the machine: from the config, and where a command takes a URL. A program without the feature
//! `remote` has none.

#[cfg(feature = "remote")]
mod bar;
#[cfg(feature = "remote")]
mod reading;

#[cfg(feature = "remote")]
pub(crate) use bar::TransferBar;
#[cfg(feature = "remote")]
pub(crate) use reading::{entries, pull, verify, with_file};

use crate::failure::Failure;
use keepstep::remote::{Remote, RemotePolicy};
use keepstep_lm::Config;
use std::sync::Arc;

/// Reports whether a text is a URL of an object store.
pub(crate) fn is_url(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| matches!(scheme, "s3" | "gs" | "az" | "file" | "http" | "https"))
}

/// The failure of a program that was built without network code.
#[cfg(not(feature = "remote"))]
pub(crate) fn not_built(url: &str) -> Failure {
    Failure::new(
        2,
        format!(
            "{url}: this keepstep was built without object stores; build it with `cargo build --release --features \
             remote`, or install the Python package, which has them"
        ),
    )
}

/// The remote that the config sets.
pub(crate) fn policy(config: &Config) -> Result<Option<RemotePolicy>, Failure> {
    let Some(url) = config.remote.url.as_ref().filter(|url| !url.is_empty()) else { return Ok(None) };
    let url = keepstep::settings::expand(url).map_err(|error| Failure::of(2, &error))?;
    let mut policy = RemotePolicy::new(connect(&url, config)?);
    policy.stop_on_error = config.remote.on_error == keepstep_lm::config::OnRemoteError::Stop;
    policy.max_lag = config.remote.max_lag;
    Ok(Some(policy))
}

/// The run or checkpoint to resume from, if it is given as a URL.
pub(crate) fn source(from: &Option<String>, config: &Config) -> Result<Option<Arc<dyn Remote>>, Failure> {
    match from {
        Some(url) if is_url(url) => connect(url, config).map(Some),
        _ => Ok(None),
    }
}

#[cfg(feature = "remote")]
/// A place that the command line names, with the environment's settings.
pub(crate) fn open(url: &str) -> Result<keepstep_remote::ObjectRemote, Failure> {
    let settings = keepstep_remote::Settings::new(url);
    keepstep_remote::ObjectRemote::open(&settings).map_err(|error| failure(&error))
}

/// The failure of a place, with what can be done about it.
#[cfg(feature = "remote")]
pub(crate) fn failure(error: &keepstep::remote::RemoteError) -> Failure {
    let failure = Failure::of(if error.is_usage() { 2 } else { 1 }, error);
    match crate::hints::remote_hint(error) {
        Some(hint) => failure.with(hint),
        None => failure,
    }
}

#[cfg(feature = "remote")]
fn connect(url: &str, config: &Config) -> Result<Arc<dyn Remote>, Failure> {
    let mut settings = keepstep_remote::Settings::new(url);
    settings.endpoint.clone_from(&config.remote.endpoint);
    settings.region.clone_from(&config.remote.region);
    settings.single_writer = config.remote.single_writer;
    let remote = keepstep_remote::ObjectRemote::open(&settings).map_err(|error| failure(&error))?;
    Ok(Arc::new(remote))
}

#[cfg(not(feature = "remote"))]
fn connect(url: &str, _: &Config) -> Result<Arc<dyn Remote>, Failure> {
    Err(not_built(url))
}

#[cfg(not(feature = "remote"))]
mod without {
    use super::*;
    use crate::checkpoints::Entry;
    use keepstep_pt::File;

    pub(crate) fn entries(url: &str) -> Result<Vec<Entry>, Failure> {
        Err(not_built(url))
    }

    pub(crate) fn with_file<T>(url: &str, _: impl FnMut(&File) -> Result<T, Failure>) -> Result<T, Failure> {
        Err(not_built(url))
    }

    pub(crate) fn verify(url: &str) -> Result<(), Failure> {
        Err(not_built(url))
    }

    pub(crate) fn pull(url: &str, _: &std::path::Path) -> Result<(), Failure> {
        Err(not_built(url))
    }
}

#[cfg(not(feature = "remote"))]
pub(crate) use without::{entries, pull, verify, with_file};
