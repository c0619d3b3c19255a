//! `keepstep.json`: what a bundle holds.

use crate::failure::Failure;
use keepstep::Checkpoint;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The file's name in the bundle.
pub(crate) const MANIFEST: &str = "keepstep.json";

/// The newest format that this program reads.
const FORMAT: u32 = 1;

/// What a bundle holds, with the checksum of every file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    /// The run's id, which `status.json` has too.
    pub(crate) run: String,
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    pub(crate) global_step: u64,
    pub(crate) total_steps: u64,
    /// The file at this position.
    pub(crate) checkpoint: String,
    pub(crate) files: BTreeMap<String, Entry>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) size_bytes: u64,
    pub(crate) sha256: String,
}

/// Why a manifest cannot be used, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ManifestError {
    /// The text is not a manifest: its upload broke off, or its bytes changed.
    Damaged(String),
    /// A newer keepstep wrote it.
    Newer(String),
}

impl Manifest {
    /// Describes the files `names` of a folder, whose newest checkpoint is given.
    pub(crate) fn of(
        folder: &Path,
        name: &str,
        newest: &Checkpoint,
        names: &[String],
    ) -> Result<Manifest, Failure> {
        let mut files = BTreeMap::new();
        for name in names {
            files.insert(name.clone(), Entry::of(&folder.join(name))?);
        }
        Ok(Manifest {
            format: FORMAT,
            run: newest.run_id(),
            epoch: newest.position.epoch,
            step: newest.position.step,
            global_step: newest.position.global_step,
            total_steps: newest.plan.total_steps,
            checkpoint: name.to_owned(),
            files,
        })
    }

    /// Reads the manifest.
    pub(crate) fn parse(text: &str) -> Result<Manifest, ManifestError> {
        let damaged = |error| ManifestError::Damaged(format!("{MANIFEST} cannot be read: {error}"));
        let value: Value = serde_json::from_str(text).map_err(damaged)?;
        // A newer format may have other fields.
        match value["format"].as_u64() {
            Some(format) if format > u64::from(FORMAT) => Err(ManifestError::Newer(format!(
                "{MANIFEST} has format {format}, and this keepstep reads {FORMAT}: use a newer keepstep"
            ))),
            _ => serde_json::from_value(value).map_err(damaged),
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.size_bytes).sum()
    }

    /// The position in words.
    pub(crate) fn position(&self) -> String {
        let Manifest { epoch, step, global_step, total_steps, .. } = self;
        format!("epoch {epoch}, step {step}, global step {global_step} of {total_steps}")
    }
}

impl Entry {
    pub(crate) fn of(path: &Path) -> Result<Entry, Failure> {
        let failed = |error: std::io::Error| Failure::at(path, &error);
        let mut file = File::open(path).map_err(failed)?;
        let (mut hash, mut size_bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            size_bytes += count as u64;
        }
        let sha256 = keepstep::hex(&hash.finalize());
        Ok(Entry { size_bytes, sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused() {
        let text = |format: u32| {
            format!(
                r#"{{"format": {format}, "run": "a", "epoch": 1, "step": 2, "global_step": 2, "total_steps": 9,
                 "checkpoint": "x.pt", "files": {{"x.pt": {{"size_bytes": 1, "sha256": "00"}}}}}}"#
            )
        };
        let manifest = Manifest::parse(&text(1)).expect("format 1");
        assert_eq!(manifest.position(), "epoch 1, step 2, global step 2 of 9");
        assert_eq!(manifest.size_bytes(), 1);
        for newer in [text(2).as_str(), r#"{"format": 3, "everything": "else"}"#] {
            let error = Manifest::parse(newer).expect_err("a newer format");
            assert!(
                matches!(&error, ManifestError::Newer(reason) if reason.contains("use a newer keepstep")),
                "{error:?}"
            );
        }
        let whole = text(1);
        for damaged in ["", "{}", "[1]", &whole[..whole.len() / 2]] {
            let error = Manifest::parse(damaged).expect_err("no manifest");
            assert!(
                matches!(&error, ManifestError::Damaged(reason) if reason.contains("cannot be read")),
                "{error:?}"
            );
        }
    }
}
