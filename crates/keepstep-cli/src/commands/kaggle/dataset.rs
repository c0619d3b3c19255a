//! The versions of a dataset: which holds what, and which comes before one that is incomplete.

use super::{HUB, Place};
use crate::bundle::{Manifest, ManifestError, SideFolder, is_file_of_run};
use crate::failure::Failure;
use crate::python::{Python, request};
use serde_json::json;
use std::path::Path;

/// How many versions before the newest one are looked at.
const MOST_VERSIONS_BACK: u64 = 3;

/// A dataset, and the Python that asks Kaggle about it.
#[derive(Debug, Clone, Copy)]
pub(in crate::commands) struct Dataset<'a> {
    pub(in crate::commands) python: &'a Python,
    /// What messages name.
    pub(in crate::commands) url: &'a str,
    pub(in crate::commands) place: &'a Place,
    /// Whether to insist on credentials before Kaggle is asked.
    pub(in crate::commands) credentials: bool,
}

/// What a version holds, as its manifest tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands) enum Held {
    /// There is no such dataset.
    Nothing,
    /// Files without a manifest.
    NoManifest,
    /// What keepstep pushed.
    Bundle(Manifest),
    /// The manifest cannot be read, for this reason: its push broke off.
    Incomplete(String),
}

impl<'a> Dataset<'a> {
    /// Reads the manifest of the version that `place` names. `folder` is empty and takes the download.
    pub(in crate::commands) fn look(&self, place: &Place, folder: &Path) -> Result<Held, Failure> {
        let look = json!({ "handle": place.handle(), "folder": folder, "credentials": self.credentials });
        let found = self.python.call(HUB, &request("look", look), self.url, true)?;
        if found["exists"] == json!(false) {
            return Ok(Held::Nothing);
        }
        match found["manifest"].as_str().map(Manifest::parse) {
            None => Ok(Held::NoManifest),
            Some(Ok(manifest)) => Ok(Held::Bundle(manifest)),
            Some(Err(ManifestError::Damaged(reason))) => Ok(Held::Incomplete(reason)),
            Some(Err(ManifestError::Newer(reason))) => {
                Err(Failure::new(1, format!("{}: {reason}", self.url)))
            }
        }
    }

    /// Whether a version without a manifest may be a push that broke off: all its files are a run's.
    pub(in crate::commands) fn may_be_push(&self, place: &Place) -> Result<bool, Failure> {
        let answer =
            self.python.call(HUB, &request("names", json!({ "handle": place.handle() })), self.url, true)?;
        let mut names = answer["names"].as_array().into_iter().flatten();
        Ok(names.all(|name| name.as_str().is_some_and(is_file_of_run)))
    }

    /// The version with a manifest, whole or not, that comes before the one at `place`. None as well if Kaggle does not tell.
    pub(in crate::commands) fn manifest_before(
        &self,
        place: &Place,
        side: &SideFolder,
    ) -> Result<Option<u64>, Failure> {
        let mut older = OlderVersions { dataset: *self, current: place.version, oldest: None };
        while let Ok((version, Some(before))) = older.next() {
            let folder = side.make(&format!("before-{}-{version}", place.version.unwrap_or(0)))?;
            match self.look(&before, &folder)? {
                Held::Bundle(_) | Held::Incomplete(_) => return Ok(before.version),
                Held::Nothing | Held::NoManifest => {}
            }
        }
        Ok(None)
    }

    /// The versions before the newest one. Nobody is asked until the first of them is wanted.
    pub(in crate::commands) fn older(&self) -> OlderVersions<'a> {
        OlderVersions { dataset: *self, current: self.place.version, oldest: None }
    }
}

/// Goes from the newest version to the ones before it, a few at most.
#[derive(Debug)]
pub(in crate::commands) struct OlderVersions<'a> {
    dataset: Dataset<'a>,
    /// The version that was given last. None means the newest, whose number is not known yet.
    current: Option<u64>,
    oldest: Option<u64>,
}

impl OlderVersions<'_> {
    /// The number of the version that was given last, and the place of the one before it, if one is left to try.
    pub(in crate::commands) fn next(&mut self) -> Result<(u64, Option<Place>), Failure> {
        let current = match self.current {
            Some(current) => current,
            None => self.newest()?,
        };
        let oldest = *self.oldest.get_or_insert(current.saturating_sub(MOST_VERSIONS_BACK).max(1));
        let before = current.saturating_sub(1);
        if before < oldest {
            return Ok((current, None));
        }
        self.current = Some(before);
        Ok((current, Some(self.dataset.place.at(before))))
    }

    fn newest(&self) -> Result<u64, Failure> {
        let Dataset { python, url, place, .. } = self.dataset;
        let answer = python.call(HUB, &request("newest", json!({ "handle": place.handle() })), url, true)?;
        answer["version"]
            .as_u64()
            .ok_or_else(|| Failure::new(1, format!("{url}: Kaggle names no version of this dataset")))
    }
}
