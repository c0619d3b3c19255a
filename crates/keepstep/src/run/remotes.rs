//! The remotes of a run that is being opened: a later checkpoint comes from there, and saves will go there.

use super::mirroring::Mirroring;
use super::{Policy, Resume, RunError};
use crate::position::Position;
use crate::remote::{Facts, Fetched, Remote, RemoteError};
use crate::store::{self, Candidates, Source, Storage, Store};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Brings a later checkpoint from the remotes into the folder, whose lock is held from then on. A rewind to a remote's
/// checkpoint becomes one to the file that came from there.
pub(super) fn fetch(
    folder: &Path,
    policy: &mut Policy,
    storage: &Arc<dyn Storage>,
    store: &mut Option<Store>,
) -> Result<Fetched, RunError> {
    let mut all = Fetched::default();
    let is_rewind = matches!(policy.resume, Resume::Rewind(_));
    let remote = policy.remote.as_ref().map(|policy| &policy.remote).filter(|_| !is_rewind);
    let mut remotes: Vec<Arc<dyn Remote>> = policy.resume_remote.iter().chain(remote).cloned().collect();
    if policy.resume == Resume::Never {
        remotes.clear();
    }
    for remote in remotes {
        let is_source = policy.resume_remote.as_ref().is_some_and(|source| Arc::ptr_eq(source, &remote));
        let there = remote.newest()?;
        let Some(there) = there else {
            if is_source {
                let (url, what) =
                    (remote.url().to_owned(), "there is no checkpoint to resume from".to_owned());
                return Err(RemoteError::Unusable { url, what }.into());
            }
            continue;
        };
        let none = Source::None;
        let source = if let Resume::Newest(source) = &policy.resume { source } else { &none };
        // A source that is missing is an error later. A folder of damaged files is what the remote is for.
        let here = store::find(&**storage, &Candidates::new(folder).with_source(source));
        let here = here.ok().flatten().map(|found| found.checkpoint.position.global_step);
        let here = here.filter(|_| !is_rewind);
        if here.is_some_and(|here| here >= there) {
            continue;
        }
        if store.is_none() {
            *store = Some(Store::open(folder, Arc::clone(storage))?);
        }
        let fetched = remote.fetch(folder, here)?;
        let is_checkpoint = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "pt");
        if let (true, Some(path)) = (is_rewind && is_source, fetched.files.iter().find(is_checkpoint)) {
            policy.resume = Resume::Rewind(Source::Path(path.clone()));
        }
        all.files.extend(fetched.files);
        all.notes.extend(fetched.notes);
    }
    Ok(all)
}

/// Becomes the writer of the remote.
pub(super) fn attach(
    policy: &Policy,
    id: &str,
    folder: &Path,
    position: Position,
) -> Result<Option<Mirroring>, RunError> {
    let Some(link) = &policy.remote else { return Ok(None) };
    let rewound_to = matches!(policy.resume, Resume::Rewind(_)).then_some(position.global_step);
    let is_new = policy.resume == Resume::Never;
    let mirror = link.remote.attach(&Facts { rewound_to, is_new, ..Facts::new(id, folder) })?;
    // A checkpoint that is here alone is copied with the next save.
    let pushed = (position.global_step > 0).then_some(position.global_step);
    Ok(Some(Mirroring::new(mirror, link.clone(), pushed)))
}
