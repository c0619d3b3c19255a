//! Reading a run whole where it is, to compare its hashes.

use crate::bucket::Bucket;
use crate::discover::with_manifest;
use crate::download;
use crate::explain::{Failed, Reason};
use crate::journal;
use crate::manifest::{Manifest, Object};
use crate::reading::named;
use crate::transfer::{Meter, Progress};
use keepstep::journal::JOURNAL;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Reads an object and compares its hash with the one in `run.json`.
async fn object(
    bucket: &Bucket,
    name: &str,
    object: &Object,
    progress: Option<&Arc<dyn Progress>>,
) -> Result<(), Failed> {
    let mut meter = Meter::new(progress.cloned(), name, object.size);
    let sha256 = download::hash_with(bucket, &object.key, object.size, &mut meter).await?;
    if sha256 == object.sha256 {
        return Ok(());
    }
    let what = format!("{name} ({}) is damaged: its hash is not the one in run.json", object.key);
    Err(Failed::new(Reason::Unknown, what))
}

/// Reads every file of the run, and the journal, and reports each; or only one checkpoint. A running session may let a file
/// go meanwhile: that is no damage, and what took its place is read.
///
/// # Errors
/// The manifest cannot be read.
pub(crate) async fn run(
    bucket: &Bucket,
    mut manifest: Manifest,
    only: Option<&str>,
    progress: Option<&Arc<dyn Progress>>,
    mut report: impl FnMut(&str, Result<(), Failed>),
) -> Result<(), Failed> {
    let (mut done, mut lost) = (BTreeSet::new(), None);
    loop {
        let (result, last) = with_manifest(bucket, manifest, async |manifest| {
            let only = only.map(|only| named(manifest, Some(only))).transpose()?;
            for (name, file) in &manifest.files {
                if done.contains(&file.key) || only.is_some_and(|(only, _)| only != name) {
                    continue;
                }
                match object(bucket, name, file, progress).await {
                    Err(failed) if failed.reason == Reason::Missing => {
                        lost = Some((name.clone(), file.key.clone()));
                        return Err(failed);
                    }
                    result => report(name, result),
                }
                done.insert(file.key.clone());
            }
            if manifest.journal.is_empty() || only.is_some() || done.contains(JOURNAL) {
                return Ok(());
            }
            match journal::read(bucket, &manifest.journal).await.map(drop) {
                Err(failed) if failed.reason == Reason::Missing => {
                    lost = Some((JOURNAL.to_owned(), JOURNAL.to_owned()));
                    Err(failed)
                }
                result => {
                    report(JOURNAL, result);
                    Ok(())
                }
            }
        })
        .await;
        match (result, lost.take()) {
            // No session has let it go.
            (Err(failed), Some((name, key))) if failed.reason == Reason::Missing => {
                report(&name, Err(failed));
                done.insert(key);
                manifest = last;
            }
            (result, _) => return result,
        }
    }
}
