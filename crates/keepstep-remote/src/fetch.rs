//! Bringing a run to a machine: what it needs to continue, or all of it.

use crate::bucket::Bucket;
use crate::discover::{discover, with_manifest};
use crate::download;
use crate::explain::{Failed, Reason};
use crate::journal;
use crate::key::SUPERSEDED;
use crate::manifest::{Manifest, Object};
use crate::transfer::{Meter, Progress};
use crate::upload::Content;
use crate::writer::small_file;
use keepstep::journal::JOURNAL;
use keepstep::name::{BEST_MODEL, COMPANION_FILES, Name};
use keepstep::store::{chain, load, make_folder, write_whole};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was brought.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) notes: Vec<String>,
    pub(crate) bytes: u64,
}

impl Brought {
    /// Removes the files that were brought and that this manifest no longer names.
    fn release(&mut self, manifest: &Manifest, folder: &Path) {
        let is_named = |path: &PathBuf| manifest.files.keys().any(|name| folder.join(name) == *path);
        let (kept, released): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.files).into_iter().partition(is_named);
        self.files = kept;
        for path in released {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Notes that a file has come.
    fn add(&mut self, path: PathBuf) {
        if !self.files.contains(&path) {
            self.files.push(path);
        }
    }
}

/// What to bring of a run.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    /// The global step of the folder's newest checkpoint: a later one is wanted.
    newest_here: Option<u64>,
    /// The one checkpoint that is wanted.
    only: Option<&'a str>,
    /// Whether an object that is not there counts as damaged. Otherwise it ends the work: it may have a successor.
    skips_missing: bool,
}

/// Brings the newest valid checkpoint that is later than `newest_here`, with the best model and the tokenizer.
pub(crate) async fn newest(
    bucket: &Bucket,
    folder: &Path,
    newest_here: Option<u64>,
    only: Option<&str>,
    progress: Option<&Arc<dyn Progress>>,
) -> Result<Brought, Failed> {
    let mut brought = Brought::default();
    let found = discover(bucket).await?;
    brought.notes.extend(found.warning);
    let Some(manifest) = found.manifest else { return Ok(brought) };
    let notes = brought.notes.clone();
    let mut wanted = Wanted { newest_here, only, skips_missing: false };
    let (result, manifest) = with_manifest(bucket, manifest, async |manifest| {
        brought.notes.clone_from(&notes);
        brought.release(manifest, folder);
        newest_named(bucket, manifest, folder, wanted, progress, &mut brought).await
    })
    .await;
    match result {
        // No session has let it go: it is lost.
        Err(failed) if failed.reason == Reason::Missing => {
            wanted.skips_missing = true;
            brought.notes = notes;
            newest_named(bucket, &manifest, folder, wanted, progress, &mut brought).await?;
        }
        result => result?,
    }
    Ok(brought)
}

/// Brings the newest valid checkpoint that this manifest names, with what belongs to it.
async fn newest_named(
    bucket: &Bucket,
    manifest: &Manifest,
    folder: &Path,
    wanted: Wanted<'_>,
    progress: Option<&Arc<dyn Progress>>,
    brought: &mut Brought,
) -> Result<(), Failed> {
    let Wanted { newest_here, only, skips_missing } = wanted;
    let mut candidates: Vec<(&String, &Object)> = manifest.files.iter().collect();
    candidates.retain(|(name, object)| match only {
        Some(only) => name.as_str() == only,
        None => Name::parse(name).is_some() && object.global_step > newest_here,
    });
    candidates.sort_by_key(|(_, object)| std::cmp::Reverse(object.global_step));
    // The last resort, where there is nothing else.
    if newest_here.is_none() && only.is_none() {
        candidates.extend(manifest.files.get_key_value(BEST_MODEL));
    }
    let ends = |failed: &Failed| {
        failed.reason == Reason::Usage || (failed.reason == Reason::Missing && !skips_missing)
    };
    let mut damaged = None;
    for (name, object) in candidates {
        let path = folder.join(name);
        let is_here = brought.files.contains(&path) && is_same(&path, object);
        let result = if is_here { Ok(()) } else { checkpoint(bucket, name, object, folder, progress).await };
        match result {
            Ok(()) => {
                brought.bytes += if is_here { 0 } else { object.size };
                brought.add(path);
                match best(bucket, manifest, (name, object), folder, progress, brought).await {
                    Err(failed) if ends(&failed) => return Err(failed),
                    Err(failed) => {
                        brought
                            .notes
                            .push(format!("{}/{BEST_MODEL} cannot be used: {}", bucket.url, failed.what));
                    }
                    Ok(()) => {}
                }
                return small(bucket, manifest, folder, brought).await;
            }
            Err(failed) if ends(&failed) => return Err(failed),
            Err(failed) => {
                brought.notes.push(format!("{}/{name} cannot be used: {}", bucket.url, failed.what));
                damaged = Some(failed);
            }
        }
    }
    // Without any checkpoint here, going on would mean to begin anew.
    match damaged {
        Some(failed) if newest_here.is_none() => Err(failed),
        _ => Ok(()),
    }
}

async fn checkpoint(
    bucket: &Bucket,
    name: &str,
    object: &Object,
    folder: &Path,
    progress: Option<&Arc<dyn Progress>>,
) -> Result<(), Failed> {
    let mut meter = Meter::new(progress.cloned(), name, object.size);
    let check = |path: &Path| load(path).map(drop).map_err(|error| chain(&error));
    download::file(bucket, object, &folder.join(name), check, &mut meter).await
}

/// Brings the best model, unless the folder has a later one.
async fn best(
    bucket: &Bucket,
    manifest: &Manifest,
    (name, newest): (&str, &Object),
    folder: &Path,
    progress: Option<&Arc<dyn Progress>>,
    brought: &mut Brought,
) -> Result<(), Failed> {
    let Some(best) = manifest.files.get(BEST_MODEL) else { return Ok(()) };
    let path = folder.join(BEST_MODEL);
    if path == folder.join(name) {
        return Ok(());
    }
    let here = File::open(&path).ok();
    let is_there = here.is_some();
    let here = here.and_then(|file| crate::reader::global_step(BEST_MODEL, Arc::new(file)));
    if is_there && here.is_some() && here >= best.global_step {
        return Ok(());
    }
    if best.sha256 == newest.sha256 && best.size == newest.size {
        let _ = std::fs::remove_file(&path);
        let linked = std::fs::hard_link(folder.join(name), &path);
        let made = linked.or_else(|_| std::fs::copy(folder.join(name), &path).map(drop));
        made.map_err(|error| Failed::new(Reason::Usage, format!("{}: {error}", path.display())))?;
    } else {
        checkpoint(bucket, BEST_MODEL, best, folder, progress).await?;
        brought.bytes += best.size;
    }
    if !is_there {
        brought.add(path);
    }
    Ok(())
}

async fn small(
    bucket: &Bucket,
    manifest: &Manifest,
    folder: &Path,
    brought: &mut Brought,
) -> Result<(), Failed> {
    for name in COMPANION_FILES {
        let path = folder.join(name);
        if let Some(object) = manifest.files.get(name)
            && !path.exists()
        {
            let bytes = small_file(bucket, object).await?;
            write(&path, &bytes)?;
            brought.add(path);
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failed> {
    write_whole(path, bytes).map_err(|error| Failed::new(Reason::Usage, error.to_string()))
}

/// Brings everything that the manifest names. Files that are there already are not transferred again.
pub(crate) async fn all(
    bucket: &Bucket,
    folder: &Path,
    progress: Option<&Arc<dyn Progress>>,
) -> Result<Brought, Failed> {
    let mut brought = Brought::default();
    let found = discover(bucket).await?;
    brought.notes.extend(found.warning);
    let manifest = found.manifest.ok_or_else(|| Failed::new(Reason::Missing, "there is no run here"))?;
    let (result, _) = with_manifest(bucket, manifest, async |manifest| {
        brought.release(manifest, folder);
        named(bucket, manifest, folder, progress, &mut brought).await
    })
    .await;
    result.map(|()| brought)
}

/// Brings what this manifest names.
async fn named(
    bucket: &Bucket,
    manifest: &Manifest,
    folder: &Path,
    progress: Option<&Arc<dyn Progress>>,
    brought: &mut Brought,
) -> Result<(), Failed> {
    let failed = |error: std::io::Error| Failed::new(Reason::Usage, format!("{}: {error}", folder.display()));
    make_folder(folder).map_err(failed)?;
    let mut linked: Vec<(String, PathBuf)> = Vec::new();
    for (name, object) in &manifest.files {
        let path = folder.join(name);
        if name.starts_with(SUPERSEDED) {
            make_folder(&folder.join(SUPERSEDED)).map_err(failed)?;
        }
        if !is_same(&path, object) {
            if let Some((_, from)) = linked.iter().find(|(sha256, _)| *sha256 == object.sha256) {
                let _ = std::fs::remove_file(&path);
                if std::fs::hard_link(from, &path).is_err() {
                    std::fs::copy(from, &path).map_err(failed)?;
                }
            } else if name.ends_with(".pt") {
                checkpoint(bucket, name, object, folder, progress).await?;
                brought.bytes += object.size;
            } else {
                write(&path, &small_file(bucket, object).await?)?;
                brought.bytes += object.size;
            }
            brought.add(path.clone());
        }
        linked.push((object.sha256.clone(), path));
    }
    if !manifest.journal.is_empty() {
        let whole = journal::read(bucket, &manifest.journal).await?;
        brought.bytes += whole.len() as u64;
        write(&folder.join(JOURNAL), &whole)?;
    }
    Ok(())
}

fn is_same(path: &Path, object: &Object) -> bool {
    let content = File::open(path).and_then(|file| Content::of_file(Arc::new(file)));
    content.is_ok_and(|content| {
        content.len() == object.size && content.sha256().is_ok_and(|sha256| sha256 == object.sha256)
    })
}
