//! A place in an object store, as the run and the program use it.

use crate::bucket::Bucket;
use crate::connect::connect;
use crate::discover::discover;
use crate::explain::{Failed, Reason};
use crate::location::Location;
use crate::manifest::Manifest;
use crate::mirror::{ObjectMirror, item, small_items};
use crate::settings::Settings;
use crate::transfer::{Meter, Progress};
use crate::writer::{Opening, PushError, Work, Writer};
use crate::{check, fetch, journal};
use keepstep::name::{BEST_MODEL, COMPANION_FILES, Name};
use keepstep::remote::{Facts, Fetched, Mirror, Remote, RemoteError};
use keepstep::run::{STATUS_FILE, Status};
use keepstep_pt::ReadAt;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// A run in an object store. Cloning it shares the connection.
#[derive(Clone)]
pub struct ObjectRemote {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) bucket: Bucket,
    /// The one checkpoint that the URL names.
    only: Option<String>,
    progress: Option<Arc<dyn Progress>>,
}

impl fmt::Debug for ObjectRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectRemote({})", self.bucket.url)
    }
}

/// What [`ObjectRemote::pull`] has done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Pulled {
    /// The files that are new, or have new content.
    pub files: Vec<PathBuf>,
    /// Bytes that came.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Facts for people.
    pub notes: Vec<String>,
}

/// What [`ObjectRemote::push`] has done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Pushed {
    /// The names that are new, or have new content.
    pub files: Vec<String>,
    /// Bytes that were sent.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Facts for people.
    pub notes: Vec<String>,
}

impl ObjectRemote {
    /// Connects to a place. Nothing is requested yet.
    ///
    /// # Errors
    /// The URL or the environment cannot be used.
    pub fn open(settings: &Settings) -> Result<ObjectRemote, RemoteError> {
        let (url, only) = match Location::split_checkpoint(&settings.url) {
            Some((run, name)) => (run.to_owned(), Some(name.to_owned())),
            None => (settings.url.clone(), None),
        };
        let settings = Settings { url, ..settings.clone() };
        let location = Location::parse(&settings.url)?;
        let bucket = connect(&location, &settings)?;
        ObjectRemote::with_bucket(bucket, only)
    }

    pub(crate) fn with_bucket(bucket: Bucket, only: Option<String>) -> Result<ObjectRemote, RemoteError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("keepstep-net")
            .on_thread_start(crate::mirror::lower_priority)
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| RemoteError::Failed {
            url: bucket.url.clone(),
            what: format!("the threads for transfers cannot be started: {error}"),
        })?;
        Ok(ObjectRemote { runtime: Arc::new(runtime), bucket, only, progress: None })
    }

    /// Reports the progress of transfers.
    #[must_use]
    pub fn with_progress(self, progress: Arc<dyn Progress>) -> ObjectRemote {
        ObjectRemote { progress: Some(progress), ..self }
    }

    /// The checkpoint that the URL names, if it names one.
    pub fn checkpoint_name(&self) -> Option<&str> {
        self.only.as_deref()
    }

    /// Reads `run.json`. Where it is missing or damaged, the manifest comes from a listing, with a warning.
    ///
    /// # Errors
    /// There is no run, or a request has failed.
    pub fn manifest(&self) -> Result<(Manifest, Option<String>), RemoteError> {
        let found =
            self.runtime.block_on(discover(&self.bucket)).map_err(|failed| failed.at(&self.bucket.url))?;
        match found.manifest {
            Some(manifest) => Ok((manifest, found.warning)),
            None => Err(Failed::new(Reason::Missing, "there is no run here").at(&self.bucket.url)),
        }
    }

    /// Reads every file of the run, and the journal, and calls `report` with the name of each and what is wrong with it; or
    /// only the checkpoint that the URL names. A running session may let files of this manifest go meanwhile; what took
    /// their place is read.
    ///
    /// # Errors
    /// There is no such checkpoint, or the manifest cannot be read again.
    pub fn verify(
        &self,
        manifest: Manifest,
        mut report: impl FnMut(&str, Result<(), RemoteError>),
    ) -> Result<(), RemoteError> {
        let failed = |failed: Failed| failed.at(&self.bucket.url);
        let report = |name: &str, result: Result<(), Failed>| report(name, result.map_err(failed));
        let only = self.only.as_deref();
        let checking = check::run(&self.bucket, manifest, only, self.progress.as_ref(), report);
        self.runtime.block_on(checking).map_err(failed)
    }

    /// Reads the journal.
    ///
    /// # Errors
    /// A segment is damaged or missing, or a request has failed.
    pub fn journal(&self, manifest: &Manifest) -> Result<Vec<u8>, RemoteError> {
        let read = journal::read(&self.bucket, &manifest.journal);
        self.runtime.block_on(read).map_err(|failed| failed.at(&self.bucket.url))
    }

    /// Copies everything into a folder.
    ///
    /// # Errors
    /// There is no run, an object is damaged, or the folder cannot be written to.
    pub fn pull(&self, folder: &Path) -> Result<Pulled, RemoteError> {
        let began = Instant::now();
        let failed = |failed: Failed| failed.at(&self.bucket.url);
        let brought = match &self.only {
            None => self
                .runtime
                .block_on(fetch::all(&self.bucket, folder, self.progress.as_ref()))
                .map_err(failed)?,
            Some(name) => self.fetch_one(folder, name)?,
        };
        let (files, bytes, notes) = (brought.files, brought.bytes, brought.notes);
        Ok(Pulled { files, bytes, took: began.elapsed(), notes })
    }

    fn fetch_one(&self, folder: &Path, name: &str) -> Result<fetch::Brought, RemoteError> {
        let url = self.bucket.url.clone();
        if let Err(error) = std::fs::create_dir_all(folder) {
            return Err(RemoteError::Unusable { url, what: format!("{}: {error}", folder.display()) });
        }
        let one = fetch::newest(&self.bucket, folder, None, Some(name), self.progress.as_ref());
        let brought = self.runtime.block_on(one).map_err(|failed| failed.at(&self.bucket.url))?;
        if brought.files.is_empty() {
            return Err(RemoteError::Unusable { url, what: format!("there is no {name}") });
        }
        Ok(brought)
    }

    /// Copies the checkpoints of a folder, its best model, tokenizer, journal and status, and ends the session. `names`
    /// are the `.pt` files; `run` is the run's id. With `take_over`, a session that has not ended loses the right to write.
    /// A session has ended if the manifest or the folder's `status.json` says so, or if it ran on this machine and its process
    /// is gone.
    ///
    /// # Errors
    /// Another run is there, a session that writes there has not ended, or a request has failed.
    pub fn push(
        &self,
        folder: &Path,
        names: &[String],
        run: &str,
        with_journal: bool,
        take_over: bool,
    ) -> Result<Pushed, RemoteError> {
        let began = Instant::now();
        let url = self.bucket.url.clone();
        let status = Status::read(folder).ok().and_then(|status| status.remote);
        let ended_session = status.and_then(|status| status.ended_session);
        let opening = Opening { run: run.to_owned(), take_over, ended_session, ..Opening::default() };
        let pushing = async {
            let (mut writer, mut notes) = Writer::open(self.bucket.clone(), &opening).await?;
            let failed = |failed: Failed| failed.at(&url);
            let mut items = small_items(folder, &COMPANION_FILES);
            for name in names {
                let path = folder.join(name);
                let file = std::fs::File::open(&path).ok().and_then(|file| item(name, file));
                items.push(file.ok_or_else(|| {
                    failed(Failed::new(Reason::Usage, format!("{}: it cannot be read", path.display())))
                })?);
            }
            let mut journal = None;
            if with_journal {
                items.extend(small_items(folder, &[STATUS_FILE]));
                let segments = writer.manifest().journal.clone();
                journal::bring(&self.bucket, &segments, folder).await.map_err(failed)?;
                if let Some(file) = journal::open(folder) {
                    writer.shared_segments = journal::shared(&segments, &file);
                    let len = file.len_bytes().unwrap_or(0);
                    journal = Some((file, len));
                }
            }
            let total = items.iter().map(|item| item.content.len()).sum();
            let mut meter = Meter::new(self.progress.clone(), "all", total);
            let work = Work { items, journal, retention: None, close: true };
            let done = writer.push(&work, &mut meter).await.map_err(|error| match error {
                PushError::TakenOver(error) => error,
                PushError::Failed(error) => failed(error),
            })?;
            notes.extend(done.notes);
            Ok::<_, RemoteError>((done.names, done.bytes, notes))
        };
        let (files, bytes, notes) = self.runtime.block_on(pushing)?;
        Ok(Pushed { files, bytes, took: began.elapsed(), notes })
    }

    /// The checkpoints of a folder that the manifest does not have, oldest first.
    fn missing(manifest: &Manifest, folder: &Path) -> Vec<String> {
        let mut names: Vec<(u64, String)> = Vec::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            let is_there = manifest.files.get(&name).is_some_and(|object| object.size == size);
            match Name::parse(&name) {
                Some(parsed) if !is_there => names.push((parsed.global_step, name)),
                None if name == BEST_MODEL && !is_there => names.push((0, name)),
                _ => {}
            }
        }
        names.sort();
        names.into_iter().map(|(_, name)| name).collect()
    }
}

impl Remote for ObjectRemote {
    fn url(&self) -> &str {
        &self.bucket.url
    }

    fn newest(&self) -> Result<Option<u64>, RemoteError> {
        let found =
            self.runtime.block_on(discover(&self.bucket)).map_err(|failed| failed.at(&self.bucket.url))?;
        Ok(found.manifest.and_then(|manifest| match &self.only {
            Some(name) => manifest.files.get(name)?.global_step,
            None => manifest.newest(),
        }))
    }

    fn fetch(&self, folder: &Path, newest_here: Option<u64>) -> Result<Fetched, RemoteError> {
        let fetching =
            fetch::newest(&self.bucket, folder, newest_here, self.only.as_deref(), self.progress.as_ref());
        let mut brought = self.runtime.block_on(fetching).map_err(|failed| failed.at(&self.bucket.url))?;
        let names = brought.files.iter().filter_map(|path| path.file_name()?.to_str());
        let names: Vec<&str> = names.filter(|name| name.ends_with(".pt")).collect();
        if !names.is_empty() {
            brought.notes.push(format!("Fetched {} from {}", names.join(" and "), self.bucket.url));
        }
        Ok(Fetched::new(brought.files, brought.notes))
    }

    fn attach(&self, facts: &Facts) -> Result<Box<dyn Mirror>, RemoteError> {
        let opening = Opening {
            run: facts.run.clone(),
            rewound_to: facts.rewound_to,
            is_new: facts.is_new,
            take_over: true,
            ended_session: None,
        };
        let opened = async {
            let (mut writer, notes) = Writer::open(self.bucket.clone(), &opening).await?;
            let segments = writer.manifest().journal.clone();
            let failed = |failed: Failed| failed.at(&self.bucket.url);
            journal::bring(&self.bucket, &segments, &facts.folder).await.map_err(failed)?;
            writer.shared_segments =
                journal::open(&facts.folder).map_or(0, |file| journal::shared(&segments, &file));
            Ok::<_, RemoteError>((writer, notes))
        };
        let (writer, notes) = self.runtime.block_on(opened)?;
        let missing = ObjectRemote::missing(writer.manifest(), &facts.folder);
        let runtime = Arc::clone(&self.runtime);
        let progress = None;
        let mirror = ObjectMirror::start(runtime, writer, &facts.folder, missing, notes, progress);
        match mirror {
            Ok(mirror) => Ok(Box::new(mirror)),
            Err(error) => Err(RemoteError::Failed {
                url: self.bucket.url.clone(),
                what: format!("the thread that pushes cannot be started: {error}"),
            }),
        }
    }
}
