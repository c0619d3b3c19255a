//! What a remote holds: from `run.json`, or from a listing where that is missing or damaged.

use crate::bucket::{Bucket, Expected};
use crate::download;
use crate::explain::{Failed, Reason};
use crate::key;
use crate::manifest::{Manifest, ManifestError, Object, RUN_JSON, Segment};
use keepstep::name::{BEST_MODEL, Name};

/// Reads of a damaged `run.json` before it counts as damaged.
const READS: u32 = 3;

/// What a remote holds.
#[derive(Debug)]
pub(crate) struct Found {
    /// None where nothing was ever pushed.
    pub(crate) manifest: Option<Manifest>,
    /// What a write of `run.json` must expect.
    pub(crate) expected: Expected,
    /// Why the manifest was made from a listing.
    pub(crate) warning: Option<String>,
}

/// Reads `run.json`. Where it is missing or damaged, lists the prefix and reads every file there.
///
/// # Errors
/// A request has failed, or a newer keepstep has written the manifest.
pub(crate) async fn discover(bucket: &Bucket) -> Result<Found, Failed> {
    let mut reads = 0;
    let (expected, reason) = loop {
        reads += 1;
        match bucket.get(RUN_JSON).await {
            Ok((bytes, version)) => match Manifest::parse(&bytes) {
                Ok(manifest) => {
                    let expected = Expected::Version(version);
                    return Ok(Found { manifest: Some(manifest), expected, warning: None });
                }
                Err(error @ ManifestError::Newer { .. }) => {
                    return Err(Failed::new(Reason::Usage, error.to_string()));
                }
                // A bit may have flipped on the way.
                Err(_) if reads < READS => {}
                Err(error) => break (Expected::Version(version), error.to_string()),
            },
            Err(Failed { reason: Reason::Missing, .. }) => {
                break (Expected::Absent, "run.json is missing".to_owned());
            }
            Err(failed) => return Err(failed),
        }
    };
    let manifest = from_listing(bucket).await?;
    let warning = manifest.as_ref().map(|_| {
        format!(
            "{reason}: the checkpoints there were found by their names, and those that are whole are used"
        )
    });
    Ok(Found { manifest, expected, warning })
}

/// Manifests that are read at the most, while a running session lets go of what the one before named.
const MANIFESTS: usize = 20;

/// Does what needs the objects that a manifest names. A running session may remove one of them meanwhile: then the
/// work begins again with the manifest that the session wrote before. Gives the result with the last manifest.
pub(crate) async fn with_manifest<T>(
    bucket: &Bucket,
    mut manifest: Manifest,
    mut work: impl AsyncFnMut(&Manifest) -> Result<T, Failed>,
) -> (Result<T, Failed>, Manifest) {
    for _ in 1..MANIFESTS {
        match work(&manifest).await {
            Err(failed) if failed.reason == Reason::Missing => match discover(bucket).await {
                Ok(Found { manifest: Some(later), .. }) if later.swap != manifest.swap => manifest = later,
                Ok(_) => return (Err(failed), manifest),
                Err(failed) => return (Err(failed), manifest),
            },
            result => return (result, manifest),
        }
    }
    (work(&manifest).await, manifest)
}

/// Makes a manifest of everything that is whole: its hash begins with the digits in its key. None if there is nothing.
async fn from_listing(bucket: &Bucket) -> Result<Option<Manifest>, Failed> {
    let mut manifest = Manifest::new("");
    let mut segments: Vec<(u64, Segment)> = Vec::new();
    for (key, size) in bucket.list().await? {
        let Some(parsed) = key::parse(&key) else { continue };
        let sha256 = match download::hash(bucket, &key, size).await {
            Ok(sha256) if sha256.starts_with(&parsed.digits) => sha256,
            Ok(_) => continue,
            Err(failed) if failed.reason == Reason::Usage => return Err(failed),
            Err(_) => continue,
        };
        if let Some(offset) = key::offset(&parsed.name) {
            segments.push((offset, Segment { key, size, sha256 }));
            continue;
        }
        let global_step = match Name::parse(&parsed.name) {
            Some(name) => Some(name.global_step),
            None if parsed.name == BEST_MODEL => crate::reader::stated_global_step(bucket, &key, size).await,
            None => None,
        };
        let object = Object { key, size, sha256, etag: None, global_step };
        // Of several objects with one name, the best that was found last holds.
        let is_newer =
            manifest.files.get(&parsed.name).is_none_or(|other| other.global_step < object.global_step);
        if is_newer {
            manifest.files.insert(parsed.name, object);
        }
    }
    manifest.journal = chain(segments);
    if !manifest.files.contains_key(BEST_MODEL)
        && let Some(best) = best_among(bucket, &manifest).await
    {
        manifest.files.insert(BEST_MODEL.to_owned(), best);
    }
    let is_empty = manifest.files.is_empty() && manifest.journal.is_empty();
    Ok((!is_empty).then_some(manifest))
}

/// The checkpoint that is the best so far, according to the newest one: the best model may share its object.
async fn best_among(bucket: &Bucket, manifest: &Manifest) -> Option<Object> {
    let checkpoints = || manifest.files.iter().filter(|(name, _)| Name::parse(name).is_some());
    let (_, newest) = checkpoints().max_by_key(|(_, object)| object.global_step)?;
    let best = crate::reader::best_global_step(bucket, &newest.key, newest.size).await?;
    checkpoints().find(|(_, object)| object.global_step == Some(best)).map(|(_, object)| object.clone())
}

/// The segments that follow each other from the beginning, the longest at each place.
fn chain(mut segments: Vec<(u64, Segment)>) -> Vec<Segment> {
    let (mut chain, mut end) = (Vec::new(), 0);
    segments.sort_by_key(|(offset, segment)| (*offset, std::cmp::Reverse(segment.size)));
    while let Some((_, segment)) =
        segments.iter().find(|(offset, segment)| *offset == end && segment.size > 0)
    {
        end += segment.size;
        chain.push(segment.clone());
    }
    chain
}
