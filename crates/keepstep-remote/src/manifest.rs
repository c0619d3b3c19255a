//! `run.json`: what a remote holds. It is the only object that changes, and the only truth.

use keepstep::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use thiserror::Error;

/// The key of the manifest.
pub const RUN_JSON: &str = "run.json";

/// The version of the format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Keys that are remembered as deleted.
const RETIRED: usize = 64;

/// The content of `run.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The run's id: see [`Run::id`](keepstep::Run::id).
    pub run: String,
    /// The session that may write.
    pub writer: WriterInfo,
    /// Counts the swaps of this manifest.
    pub swap: u64,
    /// When it was last swapped, in seconds since 1970 (UTC).
    pub updated: f64,
    /// Today's names, with the objects that hold them.
    pub files: BTreeMap<String, Object>,
    /// The journal, in order.
    pub journal: Vec<Segment>,
    /// Keys that were let go last. Late requests may still delete them, so they are not used again.
    pub retired: Vec<String>,
    /// The first sixteen digits of the SHA-256 of all the rest.
    pub check: String,
}

/// The session that may write.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WriterInfo {
    /// Rises by one with each session that opens for writing.
    pub epoch: u64,
    /// Random digits that no other session has.
    pub session: String,
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// When the session opened, in seconds since 1970 (UTC).
    pub since: f64,
    /// Whether the session has ended.
    pub closed: bool,
}

/// An object that holds a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size: u64,
    /// The SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// The store's own mark of this version, if it gives one.
    pub etag: Option<String>,
    /// For a checkpoint: the updates completed in it.
    pub global_step: Option<u64>,
}

/// A part of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Segment {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size: u64,
    /// The SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

/// A `run.json` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is not what was written.
    #[error("run.json is damaged: {reason}")]
    Damaged {
        /// Why.
        reason: String,
    },
    /// A newer keepstep has written it.
    #[error(
        "run.json has format {format}, and this keepstep reads formats up to {FORMAT}; use a newer keepstep"
    )]
    Newer {
        /// Its format.
        format: u32,
    },
}

impl Manifest {
    /// An empty manifest of a run.
    pub fn new(run: &str) -> Manifest {
        Manifest { format: FORMAT, run: run.to_owned(), ..Manifest::default() }
    }

    /// Reads a manifest, and compares its check.
    ///
    /// # Errors
    /// It is damaged, or of a newer format.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let damaged = |reason: String| ManifestError::Damaged { reason };
        let Format { format } = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if format > FORMAT {
            return Err(ManifestError::Newer { format });
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if manifest.check != manifest.computed_check() {
            return Err(damaged("its check does not match its content".to_owned()));
        }
        Ok(manifest)
    }

    /// The manifest as text, with its check.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sealed = Manifest { check: self.computed_check(), ..self.clone() };
        let mut text = serde_json::to_vec_pretty(&sealed).unwrap_or_default();
        text.push(b'\n');
        text
    }

    fn computed_check(&self) -> String {
        let open = Manifest { check: String::new(), ..self.clone() };
        hex(&Sha256::digest(serde_json::to_vec(&open).unwrap_or_default()))[..16].to_owned()
    }

    /// Every key that the manifest names.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let files = self.files.values().map(|object| object.key.as_str());
        files.chain(self.journal.iter().map(|segment| segment.key.as_str()))
    }

    pub(crate) fn names(&self, key: &str) -> bool {
        self.keys().any(|named| named == key)
    }

    /// The object that holds this content, under any name.
    pub(crate) fn find(&self, size: u64, sha256: &str) -> Option<&Object> {
        self.files.values().find(|object| object.size == size && object.sha256 == sha256)
    }

    /// The highest global step of a checkpoint.
    pub fn newest(&self) -> Option<u64> {
        let steps = self.files.iter().filter(|(name, _)| !name.starts_with(crate::key::SUPERSEDED));
        steps.filter_map(|(_, object)| object.global_step).max()
    }

    /// Remembers keys that `before` named and this does not.
    pub(crate) fn retire(&mut self, before: &Manifest) {
        let mut retired: Vec<String> = before.retired.clone();
        retired.extend(before.keys().map(str::to_owned));
        retired.append(&mut self.retired);
        let mut kept: Vec<String> = Vec::new();
        for key in retired.into_iter().rev() {
            if !self.names(&key) && !kept.contains(&key) && kept.len() < RETIRED {
                kept.push(key);
            }
        }
        kept.reverse();
        self.retired = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let mut manifest = Manifest::new("0123456789abcdef");
        let object = Object {
            key: "best_model-0123.pt".to_owned(),
            size: 3,
            global_step: Some(7),
            ..Object::default()
        };
        manifest.files.insert("best_model.pt".to_owned(), object);
        manifest.journal.push(Segment { key: "journal-0".to_owned(), size: 5, sha256: String::new() });
        manifest.updated = 1.5;
        manifest
    }

    #[test]
    fn it_is_read_back_and_any_flipped_bit_is_noticed() {
        let whole = manifest().to_bytes();
        let read = Manifest::parse(&whole).expect("a manifest");
        assert_eq!(read.newest(), Some(7));
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                // White space is no content.
                if let Ok(other) = Manifest::parse(&flipped) {
                    assert_eq!(other, read, "byte {at}");
                }
            }
        }
        let newer = String::from_utf8(whole).expect("text").replacen("\"format\": 1", "\"format\": 2", 1);
        assert_eq!(Manifest::parse(newer.as_bytes()), Err(ManifestError::Newer { format: 2 }));
    }

    #[test]
    fn keys_that_are_let_go_are_remembered_unless_they_are_named_again() {
        let before = manifest();
        let mut after = Manifest { files: BTreeMap::new(), ..before.clone() };
        after.retire(&before);
        assert_eq!(after.retired, ["best_model-0123.pt"]);
        let mut again = before.clone();
        again.retire(&after);
        assert!(again.retired.is_empty());
    }

    /// The reference page of formats has every field.
    #[test]
    fn the_page_of_formats_has_every_field() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats.md");
        let page = std::fs::read_to_string(path).expect("the page");
        let (_, part) = page.split_once("## Remote: `run.json`").expect("the part about run.json");
        let part = part.split_once("\n## ").map_or(part, |(part, _)| part);
        let value = serde_json::to_value(manifest()).expect("JSON");
        let mut missing = Vec::new();
        let mut look = |value: &serde_json::Value| {
            let keys = value.as_object().into_iter().flat_map(|fields| fields.keys());
            missing.extend(keys.filter(|key| !part.contains(&format!("`{key}`"))).cloned());
        };
        look(&value);
        look(&value["writer"]);
        look(&value["files"]["best_model.pt"]);
        look(&value["journal"][0]);
        assert!(missing.is_empty(), "docs/formats.md: run.json lacks {missing:?}");
    }
}
