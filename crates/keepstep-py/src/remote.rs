//! The place that outlives the machine, from a dict of Python.

use crate::errors::{chain, usage};
use keepstep::remote::{PushReport, Remote, RemotePolicy};
use keepstep_remote::{ObjectRemote, Settings};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::Arc;

fn get<'py, T: FromPyObjectOwned<'py>>(settings: &Bound<'py, PyDict>, key: &str) -> PyResult<Option<T>> {
    let value = settings.get_item(key)?;
    value
        .map(|value| value.extract::<T>().map_err(|_| usage(format!("`remote`: `{key}` has a wrong type"))))
        .transpose()
}

/// A place with the settings of a dict, whose URL counts only for itself.
pub(crate) fn open(url: &str, settings: Option<&Bound<'_, PyDict>>) -> PyResult<Arc<dyn Remote>> {
    let mut all = Settings::new(url);
    if let Some(settings) = settings {
        all.endpoint = get(settings, "endpoint")?;
        all.region = get(settings, "region")?;
        all.single_writer = get(settings, "single_writer")?.unwrap_or_default();
    }
    let remote = ObjectRemote::open(&all).map_err(|error| usage(chain(&error)))?;
    Ok(Arc::new(remote))
}

/// The remote of a run.
pub(crate) fn policy(settings: &Bound<'_, PyDict>) -> PyResult<RemotePolicy> {
    let url: String = get(settings, "url")?.unwrap_or_default();
    let mut policy = RemotePolicy::new(open(&url, Some(settings))?);
    policy.stop_on_error = get::<String>(settings, "on_error")?.is_some_and(|value| value == "stop");
    policy.max_lag = get(settings, "max_lag")?;
    Ok(policy)
}

/// What has become of copies.
#[derive(Debug, Default)]
pub(crate) struct Pushes {
    /// The seconds of the longest copy.
    pub(crate) longest: f64,
}

impl Pushes {
    /// Takes reports into account, and gives their words.
    pub(crate) fn note(&mut self, reports: &[PushReport]) -> Vec<String> {
        for report in reports {
            if let PushReport::Pushed { took, .. } = report {
                self.longest = self.longest.max(took.as_secs_f64());
            }
        }
        reports.iter().map(ToString::to_string).collect()
    }
}
