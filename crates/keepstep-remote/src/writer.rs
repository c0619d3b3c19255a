//! The protocol of a session that writes: upload, verify, swap the manifest, and only then delete.

use crate::bucket::{Bucket, Expected, Version};
use crate::discover::{Found, discover};
use crate::explain::{Failed, Reason};
use crate::key;
use crate::manifest::{Manifest, ManifestError, Object, RUN_JSON, Segment, WriterInfo};
use crate::probe::probe;
use crate::swap::put_run_json;
use crate::transfer::Meter;
use crate::upload::{Content, upload};
use crate::{download, journal};
use keepstep::journal::{process_exists, utc};
use keepstep::name::Name;
use keepstep::remote::RemoteError;
use keepstep::store::Retention;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

/// Attempts at a swap that another write of this session got in the way of.
const SWAPS: u32 = 8;

/// A file that is pushed under a name.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) content: Content,
    pub(crate) global_step: Option<u64>,
}

/// What one swap of the manifest brings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Work {
    pub(crate) items: Vec<Item>,
    /// The journal, and its length.
    pub(crate) journal: Option<(Arc<File>, u64)>,
    /// Which checkpoints to keep, once a checkpoint at this global step is named.
    pub(crate) retention: Option<(Retention, u64)>,
    /// Whether the session ends.
    pub(crate) close: bool,
}

/// What a push has done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Names that are new, or have new content.
    pub(crate) names: Vec<String>,
    pub(crate) bytes: u64,
    pub(crate) notes: Vec<String>,
}

/// Why a push has not succeeded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PushError {
    /// Another session is the writer.
    TakenOver(RemoteError),
    /// A request has failed.
    Failed(Failed),
}

impl From<Failed> for PushError {
    fn from(failed: Failed) -> PushError {
        PushError::Failed(failed)
    }
}

/// What opening for writing needs to know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Opening {
    /// The run's id.
    pub(crate) run: String,
    pub(crate) rewound_to: Option<u64>,
    pub(crate) is_new: bool,
    /// Whether a session that has not ended may be taken over.
    pub(crate) take_over: bool,
    /// A session that is known to push no more, though the manifest does not say that it has ended.
    pub(crate) ended_session: Option<String>,
}

/// The session that may write.
#[derive(Debug)]
pub(crate) struct Writer {
    bucket: Bucket,
    me: WriterInfo,
    current: Manifest,
    expected: Expected,
    /// Objects that were uploaded and verified, by key.
    verified: BTreeMap<String, Object>,
    /// Keys that the store has confirmed to be deleted.
    deleted: BTreeSet<String>,
    /// How many of the journal's segments the local journal begins with.
    pub(crate) shared_segments: usize,
    lost: Option<RemoteError>,
}

impl Writer {
    /// Becomes the writer: raises the epoch in the manifest. Then deletes what no manifest names.
    ///
    /// # Errors
    /// Another run is there, the store ignores conditions, or a request has failed.
    pub(crate) async fn open(
        bucket: Bucket,
        opening: &Opening,
    ) -> Result<(Writer, Vec<String>), RemoteError> {
        let url = bucket.url.clone();
        let failed = |failed: Failed| failed.at(&url);
        let mut me = WriterInfo {
            session: random(),
            host: keepstep::journal::host(),
            pid: std::process::id(),
            since: now(),
            ..WriterInfo::default()
        };
        let mut is_probed = false;
        let mut last = None;
        for _ in 0..SWAPS {
            let found = discover(&bucket).await.map_err(failed)?;
            check(&url, &found, opening)?;
            if !is_probed {
                probe(&bucket, &me.session).await.map_err(failed)?;
                is_probed = true;
            }
            let listed = bucket.list().await.map_err(failed)?;
            let before = found.manifest.unwrap_or_else(|| Manifest::new(&opening.run));
            me.epoch = before.writer.epoch + 1;
            let orphans = listed.iter().map(|(key, _)| key.clone());
            let orphans: Vec<String> =
                orphans.filter(|key| key::parse(key).is_some() && !before.names(key)).collect();
            let mut next = Manifest { run: opening.run.clone(), writer: me.clone(), ..before.clone() };
            if let Some(step) = opening.rewound_to {
                supersede(&mut next, step);
            }
            next.swap += 1;
            next.updated = now();
            next.retired = orphans.clone();
            next.retire(&before);
            let version = match put_run_json(&bucket, next.to_bytes().into(), &found.expected).await {
                Ok(version) => version,
                Err(error) => match read_back(&bucket).await.map_err(failed)? {
                    // The answer was lost, and the write was not.
                    Some((there, version)) if there.writer.session == me.session => {
                        next = there;
                        version
                    }
                    _ if error.reason == Reason::Condition => {
                        last = Some(error);
                        continue;
                    }
                    _ => return Err(failed(error)),
                },
            };
            let mut notes: Vec<String> = found.warning.into_iter().collect();
            let gone = next.retired.iter().filter(|key| !listed.iter().any(|(there, _)| there == *key));
            let mut writer = Writer {
                deleted: gone.cloned().collect(),
                shared_segments: next.journal.len(),
                bucket,
                me,
                current: next,
                expected: Expected::Version(version),
                verified: BTreeMap::new(),
                lost: None,
            };
            writer.delete_released(&mut notes).await;
            return Ok((writer, notes));
        }
        Err(failed(last.unwrap_or_else(|| Failed::new(Reason::Unknown, "run.json changes all the time"))))
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.current
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Uploads and verifies what is new, names it in the manifest, and then deletes what is no longer named.
    ///
    /// # Errors
    /// Nothing that was named before is changed or deleted.
    pub(crate) async fn push(&mut self, work: &Work, meter: &mut Meter) -> Result<Done, PushError> {
        if let Some(lost) = &self.lost {
            return Err(PushError::TakenOver(lost.clone()));
        }
        let mut done = Done::default();
        let mut files: Vec<(String, Object)> = Vec::new();
        // Checkpoints first: the best model may share the object of one.
        let is_checkpoint = |item: &&Item| Name::parse(&item.name).is_some();
        let (checkpoints, others): (Vec<&Item>, Vec<&Item>) = work.items.iter().partition(is_checkpoint);
        for item in checkpoints.into_iter().chain(others) {
            let object = self.bring(item, &files, meter, &mut done.bytes).await?;
            if self.current.files.get(&item.name).is_none_or(|there| there.sha256 != object.sha256) {
                done.names.push(item.name.clone());
            }
            files.push((item.name.clone(), object));
        }
        let journal = self.bring_journal(work, &mut done.bytes).await?;
        let (retention, close) = (work.retention, work.close);
        self.swap(|manifest, writer| {
            let mut next = manifest.clone();
            next.files.extend(files.iter().cloned());
            if let Some(journal) = &journal {
                next.journal.clone_from(journal);
            }
            if let Some((retention, step)) = &retention {
                keep(&mut next.files, retention, *step);
            }
            writer.closed = close;
            next
        })
        .await?;
        if journal.is_some() {
            self.shared_segments = self.current.journal.len();
        }
        self.delete_released(&mut done.notes).await;
        Ok(done)
    }

    /// Makes sure that a file is in the store, under any key.
    async fn bring(
        &mut self,
        item: &Item,
        new: &[(String, Object)],
        meter: &mut Meter,
        bytes: &mut u64,
    ) -> Result<Object, Failed> {
        let unreadable =
            |error: std::io::Error| Failed::new(Reason::Unknown, format!("{}: {error}", item.name));
        let content = item.content.in_memory().map_err(unreadable)?;
        let (size, sha256) = (content.len(), content.sha256().map_err(unreadable)?);
        let named = |object: &&Object| {
            let name = key::parse(&object.key).map(|parsed| parsed.name);
            name.is_some_and(|name| name == item.name || Name::parse(&name).is_some())
        };
        let in_new = new.iter().map(|(_, object)| object).find(|it| it.size == size && it.sha256 == sha256);
        let existing = self.current.find(size, &sha256).filter(named).or(in_new.filter(named)).cloned();
        if let Some(existing) = existing {
            meter.add(size);
            return Ok(Object { global_step: item.global_step, ..existing });
        }
        let key =
            key::of(&item.name, &sha256, |key| self.current.retired.iter().any(|retired| retired == key));
        if let Some(verified) = self.verified.get(&key).filter(|verified| verified.sha256 == sha256) {
            meter.add(size);
            return Ok(verified.clone());
        }
        let before = meter.clone();
        let etag = match upload(&self.bucket, &key, &content, &sha256, meter).await {
            Ok(etag) => etag,
            Err(failed) => {
                *meter = before;
                return Err(failed);
            }
        };
        *bytes += size;
        let object = Object { key: key.clone(), size, sha256, etag, global_step: item.global_step };
        self.verified.insert(key, object.clone());
        Ok(object)
    }

    /// Uploads the journal's new lines. Gives the new list of segments, if there are any.
    async fn bring_journal(&self, work: &Work, bytes: &mut u64) -> Result<Option<Vec<Segment>>, Failed> {
        let Some((file, len)) = &work.journal else { return Ok(None) };
        let base = &self.current.journal[..self.shared_segments.min(self.current.journal.len())];
        let Some((kept, start)) = journal::plan(base, *len) else {
            return Ok((base.len() < self.current.journal.len()).then(|| base.to_vec()));
        };
        let content = Content::File { file: Arc::clone(file), start, len: len - start };
        let sha256 = content
            .sha256()
            .map_err(|error| Failed::new(Reason::Unknown, format!("the journal: {error}")))?;
        let key =
            key::of_segment(start, &sha256, |key| self.current.retired.iter().any(|retired| retired == key));
        upload(&self.bucket, &key, &content, &sha256, &mut Meter::none()).await?;
        *bytes += len - start;
        let mut segments = base[..kept].to_vec();
        segments.push(Segment { key, size: len - start, sha256 });
        Ok(Some(segments))
    }

    /// Swaps the manifest. If the answer is lost, what is there decides.
    async fn swap(
        &mut self,
        change: impl Fn(&Manifest, &mut WriterInfo) -> Manifest,
    ) -> Result<(), PushError> {
        let mut last = None;
        for _ in 0..SWAPS {
            let mut writer = self.me.clone();
            let mut next = change(&self.current, &mut writer);
            next.writer = writer;
            next.swap = self.current.swap + 1;
            next.updated = now();
            next.retire(&self.current);
            let failed = match put_run_json(&self.bucket, next.to_bytes().into(), &self.expected).await {
                Ok(version) => {
                    self.current = next;
                    self.expected = Expected::Version(version);
                    return Ok(());
                }
                Err(failed) if failed.reason == Reason::Usage => return Err(failed.into()),
                Err(failed) => failed,
            };
            match read_back(&self.bucket).await? {
                Some((there, _)) if there.writer.session != self.me.session => {
                    let lost = taken_over(&self.bucket.url, &there.writer);
                    self.lost = Some(lost.clone());
                    return Err(PushError::TakenOver(lost));
                }
                Some((there, version)) => {
                    let is_ours =
                        there.swap == next.swap && there.files == next.files && there.journal == next.journal;
                    self.current = there;
                    self.expected = Expected::Version(version);
                    if is_ours {
                        return Ok(());
                    }
                }
                // Somebody has removed it.
                None => self.expected = Expected::Absent,
            }
            // An earlier write of this session, whose answer was lost, was in the way: the next attempt builds on it.
            if failed.reason != Reason::Condition {
                return Err(failed.into());
            }
            last = Some(failed);
        }
        Err(last.unwrap_or_else(|| Failed::new(Reason::Unknown, "run.json changes all the time")).into())
    }

    /// Deletes objects that the manifest has let go. A failure leaves them for the next time.
    async fn delete_released(&mut self, notes: &mut Vec<String>) {
        let released: Vec<String> =
            self.current.retired.iter().filter(|key| !self.deleted.contains(*key)).cloned().collect();
        for key in released {
            match self.bucket.delete(&key).await {
                Ok(()) => {
                    self.verified.remove(&key);
                    self.deleted.insert(key);
                }
                Err(failed) => {
                    notes.push(format!(
                        "{}: {}; it is tried again with the next push",
                        self.bucket.url, failed.what
                    ));
                    return;
                }
            }
        }
    }
}

/// Refuses a place that is not this session's to write to.
fn check(url: &str, found: &Found, opening: &Opening) -> Result<(), RemoteError> {
    let Some(manifest) = &found.manifest else { return Ok(()) };
    let url = url.to_owned();
    if !manifest.run.is_empty() && manifest.run != opening.run {
        return Err(RemoteError::OtherRun { url, theirs: manifest.run.clone(), ours: opening.run.clone() });
    }
    if opening.is_new && manifest.newest().is_some() {
        return Err(RemoteError::NotEmpty { url });
    }
    if !opening.take_over && manifest.writer.epoch > 0 && !is_over(&manifest.writer, opening) {
        return Err(taken_over(&url, &manifest.writer));
    }
    Ok(())
}

/// Whether a session has ended. The manifest says so only if the session could push to its end.
fn is_over(writer: &WriterInfo, opening: &Opening) -> bool {
    let is_killed = || writer.host == keepstep::journal::host() && !process_exists(writer.pid.into());
    writer.closed || opening.ended_session.as_ref() == Some(&writer.session) || is_killed()
}

fn taken_over(url: &str, writer: &WriterInfo) -> RemoteError {
    let WriterInfo { host, pid, since, .. } = writer;
    RemoteError::TakenOver { url: url.to_owned(), host: host.clone(), pid: *pid, since: utc(*since) }
}

async fn read_back(bucket: &Bucket) -> Result<Option<(Manifest, Version)>, Failed> {
    match bucket.get(RUN_JSON).await {
        Ok((bytes, version)) => match Manifest::parse(&bytes) {
            Ok(manifest) => Ok(Some((manifest, version))),
            Err(error @ ManifestError::Newer { .. }) => Err(Failed::new(Reason::Usage, error.to_string())),
            Err(error) => Err(Failed::new(Reason::Unknown, error.to_string())),
        },
        Err(Failed { reason: Reason::Missing, .. }) => Ok(None),
        Err(failed) => Err(failed),
    }
}

/// Moves names later than a global step out of the way, as a rewind does in the folder.
fn supersede(manifest: &mut Manifest, step: u64) {
    let later = |name: &String, object: &Object| {
        !name.starts_with(key::SUPERSEDED) && object.global_step.is_some_and(|there| there > step)
    };
    let names: Vec<String> = manifest
        .files
        .iter()
        .filter(|(name, object)| later(name, object))
        .map(|(name, _)| name.clone())
        .collect();
    for name in names {
        if let Some(object) = manifest.files.remove(&name) {
            manifest.files.insert(format!("{}{name}", key::SUPERSEDED), object);
        }
    }
}

/// Removes names as rotation does in the folder, after a checkpoint at `step`: scheduled ones beyond the newest, and
/// off-schedule ones before it.
fn keep(files: &mut BTreeMap<String, Object>, retention: &Retention, step: u64) {
    let mut names: Vec<Name> = files.keys().filter_map(|name| Name::parse(name)).collect();
    names.retain(|name| name.global_step <= step);
    names.sort_by_key(|name| std::cmp::Reverse(name.global_step));
    let is_followed = |at: u64| names.iter().any(|name| name.global_step > at);
    let mut kept = 0;
    let mut dropped: Vec<Name> = Vec::new();
    for name in &names {
        let is_scheduled = retention.is_scheduled(name);
        let keep =
            if is_scheduled { kept < retention.max_checkpoints } else { !is_followed(name.global_step) };
        kept += usize::from(is_scheduled && keep);
        if !keep {
            dropped.push(*name);
        }
    }
    files.retain(|name, _| Name::parse(name).is_none_or(|name| !dropped.contains(&name)));
}

/// Sixteen random digits.
fn random() -> String {
    let number = RandomState::new().build_hasher().finish();
    format!("{number:016x}")
}

/// Seconds since 1970 in UTC.
#[expect(clippy::disallowed_methods, reason = "like the journal, the manifest says when")]
pub(crate) fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1e3).round() / 1e3
}

/// Reads the bytes of a small file that the manifest names.
pub(crate) async fn small_file(bucket: &Bucket, object: &Object) -> Result<Vec<u8>, Failed> {
    download::bytes(bucket, &object.key, object.size, &object.sha256).await
}
