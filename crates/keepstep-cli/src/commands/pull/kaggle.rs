//! `keepstep pull` from a dataset or a notebook's output on Kaggle.

use crate::arguments::PullArguments;
use crate::bundle::{
    Contents, ContentsError, Installed, MANIFEST, SideFolder, find_folder, install, present, refuse_other,
};
use crate::commands::kaggle::{Dataset, HUB, Held, Kind, Place};
use crate::failure::Failure;
use crate::output;
use crate::python::{Python, request};
use keepstep::Checkpoint;
use serde_json::json;

pub(super) fn pull(arguments: &PullArguments) -> Result<(), Failure> {
    let (url, dir) = (&arguments.url, &arguments.dir);
    let place = Place::parse(url)?;
    let python = Python::find(arguments.python.as_deref());
    let there = present(dir)?;
    let side = SideFolder::new(dir, "pull")?;
    let dataset = Dataset { python: &python, url, place: &place, credentials: false };
    let falls_back = place.kind == Kind::Dataset && place.version.is_none();
    let (mut at, mut older, mut expected) = (place.clone(), dataset.older(), None);
    loop {
        let fetch = Fetch { arguments, dataset: &dataset, side: &side, there: there.as_ref(), falls_back };
        let (what, run) = match fetch.version(&at, expected.as_deref())? {
            Fetched::Whole(contents) => {
                for note in &contents.notes {
                    output::say(&format!("{url}: {note}"));
                }
                let installed = install(&contents, &side, dir, url)?;
                return report(arguments, installed, Some(&contents), at.version);
            }
            Fetched::NotLater(global_step) => {
                return report(arguments, Installed::Nothing { global_step }, None, at.version);
            }
            Fetched::Unusable { what, run } => (what, run),
        };
        expected = expected.or(run);
        if !falls_back {
            return Err(Failure::new(1, format!("{url}: {what}")));
        }
        let (version, before) = older.next()?;
        let Some(before) = before else {
            let hint = "there is no version before it that could be tried; push the run again";
            return Err(Failure::new(1, format!("{url}, version {version}: {what}; {hint}")));
        };
        output::say(&format!("{url}, version {version}: {what}; trying the version before it"));
        at = before;
    }
}

/// What became of one version.
enum Fetched {
    /// It was downloaded and verified.
    Whole(Box<Contents>),
    /// The folder is at this global step, the version's or a later one.
    NotLater(u64),
    /// Its files are not those that were pushed, or may not be. `run` is the run that its manifest names.
    Unusable { what: String, run: Option<String> },
}

impl Fetched {
    fn damaged(reason: &str, run: Option<String>) -> Fetched {
        Fetched::Unusable { what: format!("the download is damaged: {reason}"), run }
    }
}

struct Fetch<'a> {
    arguments: &'a PullArguments,
    dataset: &'a Dataset<'a>,
    side: &'a SideFolder,
    there: Option<&'a Checkpoint>,
    /// Whether another version may be taken.
    falls_back: bool,
}

impl Fetch<'_> {
    /// Downloads one version and verifies it. `expected` is the run of a later version that was damaged.
    fn version(&self, at: &Place, expected: Option<&str>) -> Result<Fetched, Failure> {
        let PullArguments { url, dir, json, .. } = self.arguments;
        let name = at.version.map_or_else(|| "newest".to_owned(), |version| version.to_string());
        let mut run = None;
        if at.kind == Kind::Dataset {
            // A small file tells before the large ones are downloaded.
            match self.dataset.look(at, &self.side.make(&format!("look-{name}"))?)? {
                Held::Incomplete(reason) => return Ok(Fetched::damaged(&reason, run)),
                Held::Bundle(manifest) => {
                    if let Some(there) = self.there {
                        refuse_other(dir, there, &manifest.run, url)?;
                        if there.position.global_step >= manifest.global_step {
                            return Ok(Fetched::NotLater(there.position.global_step));
                        }
                    }
                    run = Some(manifest.run);
                }
                Held::NoManifest if self.falls_back && self.dataset.may_be_push(at)? => {
                    if let Some(before) = self.dataset.manifest_before(at, self.side)? {
                        let what = format!(
                            "it has no {MANIFEST}, which version {before} has, so its upload may be incomplete (with /versions/N it is taken as it is)"
                        );
                        return Ok(Fetched::Unusable { what, run });
                    }
                }
                // The download tells whether someone put a run there by hand.
                Held::Nothing | Held::NoManifest => {}
            }
        }
        let folder = self.side.make(&format!("download-{name}"))?;
        let kind = if at.kind == Kind::Dataset { "dataset" } else { "notebook" };
        let download = json!({ "handle": at.handle(), "kind": kind, "folder": folder });
        self.dataset.python.call(HUB, &request("download", download), url, *json)?;
        let found = find_folder(&folder, url, at.folder.as_deref())?;
        match Contents::verify(&found, url) {
            Ok(contents) => {
                let own = contents.newest.run_id();
                if let Some(expected) = expected.filter(|expected| **expected != own) {
                    return Err(Failure::new(
                        1,
                        format!(
                            "{url}: the newest version is damaged and belongs to the run {expected}, and version {name} belongs to the run {own}; push the run again, or name a version with /versions/N"
                        ),
                    ));
                }
                Ok(Fetched::Whole(Box::new(contents)))
            }
            Err(ContentsError::Damaged(reason)) => {
                // Its space is needed for the next one.
                let _ = std::fs::remove_dir_all(&folder);
                Ok(Fetched::damaged(&reason, run))
            }
            Err(ContentsError::Other(failure)) => Err(failure),
        }
    }
}

fn report(
    arguments: &PullArguments,
    installed: Installed,
    contents: Option<&Contents>,
    version: Option<u64>,
) -> Result<(), Failure> {
    let PullArguments { url, dir, json, .. } = arguments;
    let position = contents.map(|contents| contents.newest.position);
    if *json {
        return output::print_json(&json!({
            "url": url, "version": version, "folder": dir, "changed": !matches!(installed, Installed::Nothing { .. }),
            "run": contents.map(|contents| contents.newest.run_id()),
            "checkpoint": contents.map(|contents| &contents.newest_name),
            "epoch": position.map(|position| position.epoch),
            "step": position.map(|position| position.step),
            "global_step": match installed {
                Installed::Nothing { global_step } => Some(global_step),
                _ => position.map(|position| position.global_step),
            },
        }));
    }
    let dir = dir.display();
    match (installed, contents) {
        (Installed::Nothing { global_step }, _) => {
            output::print(&format!("{dir} is at global step {global_step} already: nothing was changed\n"))
        }
        (_, Some(contents)) => {
            // A version that the URL does not name.
            let version = version.filter(|_| !url.contains("/versions/"));
            let version = version.map(|version| format!(", version {version},")).unwrap_or_default();
            output::print(&format!("Pulled {} from {url}{version} into {dir}\n", contents.newest.position))
        }
        (_, None) => Ok(()),
    }
}
