//! Reading checkpoints where they are, by ranges. A session may write there meanwhile.

use crate::discover::with_manifest;
use crate::explain::{Failed, Reason};
use crate::manifest::{Manifest, Object};
use crate::reader::RemoteFile;
use crate::remote::ObjectRemote;
use keepstep::Checkpoint;
use keepstep::name::{BEST_MODEL, Name};
use keepstep::remote::RemoteError;
use keepstep::store::chain;
use keepstep_pt::{File, ReadError};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::ScopedJoinHandle;
use tokio::task::block_in_place;

/// Checkpoints whose values are read at the same time.
const AT_ONCE: usize = 8;

/// A checkpoint of a run in an object store.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listed {
    /// Today's name.
    pub name: String,
    /// The size of the file.
    pub size: u64,
    /// The checkpoint, or why it cannot be read. Tensors are read on access.
    pub content: Result<Checkpoint, String>,
}

impl ObjectRemote {
    /// Opens the checkpoint that the URL names, or the best model's or the newest checkpoint of the run, and calls `work`
    /// with it. Its values are compared with their checksums; tensors are read on access. If a running session removes the
    /// file meanwhile, `work` is called again, with the file that took its place.
    ///
    /// # Errors
    /// There is no checkpoint, or the manifest cannot be read again.
    pub fn with_file<T>(
        &self,
        manifest: Manifest,
        mut work: impl FnMut(Result<File, ReadError>) -> T,
    ) -> Result<T, RemoteError> {
        self.reading(manifest, |manifest, opener| {
            let found = named(manifest, self.checkpoint_name());
            let (name, object) = found.map_err(|failed| failed.at(&self.bucket.url))?;
            Ok(work(opener.open(name, object)))
        })?
    }

    /// Reads the values of every checkpoint of the run, the best last, and compares their checksums. If a running session
    /// removes one meanwhile, the listing is that of a later time.
    ///
    /// # Errors
    /// The manifest cannot be read again.
    pub fn checkpoints(&self, manifest: Manifest) -> Result<Vec<Listed>, RemoteError> {
        self.reading(manifest, |manifest, opener| {
            let mut objects: Vec<(u64, &String, &Object)> = manifest
                .files
                .iter()
                .filter_map(|(name, object)| match Name::parse(name) {
                    Some(parsed) => Some((parsed.global_step, name, object)),
                    None => (name == BEST_MODEL).then_some((u64::MAX, name, object)),
                })
                .collect();
            objects.sort_by_key(|(step, name, _)| (*step, name.as_str()));
            objects.chunks(AT_ONCE).flat_map(|part| opener.list(part)).collect()
        })
    }

    /// Does what reads objects of a manifest. If one of them is gone, it does it again with the manifest that a session has
    /// written since. If there is none, the first result stands.
    fn reading<T>(
        &self,
        manifest: Manifest,
        mut work: impl FnMut(&Manifest, &Opener<'_>) -> T,
    ) -> Result<T, RemoteError> {
        let mut overtaken = None;
        let working = with_manifest(&self.bucket, manifest, async |manifest| {
            let opener = Opener { remote: self, is_gone: Arc::default() };
            let result = block_in_place(|| work(manifest, &opener));
            if opener.is_gone.load(Relaxed) {
                overtaken = Some(result);
                return Err(Failed::new(Reason::Missing, "an object is no longer there"));
            }
            Ok(result)
        });
        match (self.runtime.block_on(working).0, overtaken) {
            (Err(Failed { reason: Reason::Missing, .. }), Some(overtaken)) => Ok(overtaken),
            (result, _) => result.map_err(|failed| failed.at(&self.bucket.url)),
        }
    }
}

/// The one checkpoint that is wanted, by its name or its key. Otherwise the best model's, or the newest one.
pub(crate) fn named<'a>(manifest: &'a Manifest, only: Option<&str>) -> Result<(&'a str, &'a Object), Failed> {
    let missing = |what: String| Failed::new(Reason::Missing, what);
    let found = if let Some(only) = only {
        let by_key = || manifest.files.iter().find(|(_, object)| object.key == only);
        let found = manifest.files.get_key_value(only).or_else(by_key);
        found.ok_or_else(|| missing(format!("there is no {only}")))
    } else {
        let checkpoints = || manifest.files.iter().filter(|(name, _)| Name::parse(name).is_some());
        let newest = || checkpoints().max_by_key(|(_, object)| object.global_step);
        let found = manifest.files.get_key_value(BEST_MODEL).or_else(newest);
        found.ok_or_else(|| missing("there is no checkpoint here".to_owned()))
    };
    found.map(|(name, object)| (name.as_str(), object))
}

/// Opens objects, and notices when one is gone.
struct Opener<'a> {
    remote: &'a ObjectRemote,
    is_gone: Arc<AtomicBool>,
}

impl Opener<'_> {
    fn open(&self, name: &str, object: &Object) -> Result<File, ReadError> {
        let ObjectRemote { runtime, bucket, .. } = self.remote;
        let place = format!("{}/{name}", bucket.url);
        let (runtime, of) = (Arc::clone(runtime), (object.key.as_str(), object.size));
        let source = RemoteFile::new(runtime, bucket.clone(), of, Arc::clone(&self.is_gone));
        File::values_from_source(place, Arc::new(source))
    }

    fn read(&self, name: &str, object: &Object) -> Listed {
        let file = self.open(name, object).map_err(|error| chain(&error));
        let content =
            file.and_then(|file| Checkpoint::from_value(file.value()).map_err(|error| chain(&error)));
        Listed { name: name.to_owned(), size: object.size, content }
    }

    /// Reads some checkpoints at once.
    fn list(&self, objects: &[(u64, &String, &Object)]) -> Vec<Listed> {
        std::thread::scope(|scope| {
            let objects = objects.iter().copied();
            let threads: Vec<_> =
                objects.map(|(_, name, object)| scope.spawn(|| self.read(name, object))).collect();
            let join = |thread: ScopedJoinHandle<'_, Listed>| {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        })
    }
}
