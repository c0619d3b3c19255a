//! `keepstep push` to a dataset on Kaggle.

use crate::arguments::PushArguments;
use crate::bundle::{MANIFEST, Manifest, SideFolder, Staged, stage};
use crate::commands::kaggle::{Dataset, HUB, Held, Kind, Place};
use crate::failure::Failure;
use crate::format::megabytes;
use crate::output;
use crate::python::{Python, request};
use serde_json::{Value, json};

/// How long to wait until Kaggle has processed the files.
const WAIT_SECONDS: u64 = 600;

pub(super) fn push(arguments: &PushArguments) -> Result<(), Failure> {
    let place = Place::parse(&arguments.url)?;
    let url = &arguments.url;
    if place.kind != Kind::Dataset || place.version.is_some() || place.folder.is_some() {
        return Err(Failure::new(
            2,
            format!("{url}: a push makes a new version of kaggle://datasets/OWNER/SLUG"),
        ));
    }
    let python = Python::find(arguments.python.as_deref());
    let staged = stage(&arguments.run, arguments.best)?;
    for note in &staged.notes {
        output::say(&format!("{}: {note}", arguments.run.display()));
    }
    if !arguments.take_over {
        let dataset = Dataset { python: &python, url, place: &place, credentials: true };
        let side = SideFolder::new(&arguments.run, "look")?;
        refuse_others(url, &find_bundle(&dataset, &side)?, &staged.manifest)?;
    }
    let manifest = &staged.manifest;
    let notes = format!("keepstep: run {}, {}", manifest.run, manifest.position());
    output::say(&format!(
        "Uploading {} to {url}: {} files, {}",
        manifest.position(),
        manifest.files.len() + 1,
        megabytes(manifest.size_bytes())
    ));
    let upload = json!({
        "handle": place.handle(), "folder": staged.folder, "notes": notes, "wait_seconds": WAIT_SECONDS,
    });
    let answer = python.call(HUB, &request("upload", upload), url, arguments.json)?;
    let version = check(url, &answer, &staged)?;
    if arguments.json {
        return output::print_json(&json!({
            "url": url, "run": manifest.run, "epoch": manifest.epoch, "step": manifest.step,
            "global_step": manifest.global_step, "checkpoint": manifest.checkpoint,
            "num_bytes": manifest.size_bytes(), "version": version, "checked": version.is_some(),
        }));
    }
    let version = version.map(|version| format!(", version {version}")).unwrap_or_default();
    output::print(&format!("Pushed {} to {url}{version}\n", manifest.position()))
}

/// What the dataset holds. If the newest push broke off, the version before it tells.
fn find_bundle(dataset: &Dataset<'_>, side: &SideFolder) -> Result<Held, Failure> {
    let url = dataset.url;
    let mut reason = match dataset.look(dataset.place, &side.make("look")?)? {
        Held::Incomplete(reason) => reason,
        Held::NoManifest if dataset.may_be_push(dataset.place)? => format!("it has no {MANIFEST}"),
        held => return Ok(held),
    };
    let mut older = dataset.older();
    loop {
        let (version, before) = older.next()?;
        let Some(before) = before else {
            return Err(Failure::new(
                1,
                format!(
                    "{url}: version {version} is incomplete ({reason}), and no version before it tells which run this dataset holds; push to another dataset, or add --take-over to make a new version all the same"
                ),
            ));
        };
        output::say(&format!(
            "{url}: version {version} is incomplete ({reason}); comparing with the version before it"
        ));
        reason = match dataset.look(&before, &side.make(&format!("look-{version}"))?)? {
            Held::Incomplete(reason) => reason,
            Held::Nothing | Held::NoManifest => format!("it has no {MANIFEST}"),
            held @ Held::Bundle(_) => return Ok(held),
        };
    }
}

/// Refuses a dataset that holds something else: a new version would hide it.
fn refuse_others(url: &str, held: &Held, manifest: &Manifest) -> Result<(), Failure> {
    let theirs = match held {
        Held::Nothing => return Ok(()),
        Held::Bundle(theirs) => theirs,
        Held::NoManifest | Held::Incomplete(_) => {
            return Err(Failure::new(
                1,
                format!(
                    "{url}: this dataset has files that keepstep did not push, and a new version would hide them; choose another name, or add --take-over"
                ),
            ));
        }
    };
    if theirs.run != manifest.run {
        return Err(Failure::new(
            1,
            format!(
                "{url}: this dataset holds the run {}, and this is the run {}; choose another name, or add --take-over",
                theirs.run, manifest.run
            ),
        ));
    }
    if theirs.global_step > manifest.global_step {
        return Err(Failure::new(
            1,
            format!(
                "{url}: this dataset is at global step {}, later than {}; pull it, or add --take-over",
                theirs.global_step, manifest.global_step
            ),
        ));
    }
    Ok(())
}

/// Compares what Kaggle lists with what was uploaded. Gives the version, or None with a message where nothing could be
/// compared. kagglehub itself reports success for an upload that broke off for good.
fn check(url: &str, answer: &Value, staged: &Staged) -> Result<Option<u64>, Failure> {
    if answer["checked"] != json!(true) {
        let reason = answer["reason"].as_str().unwrap_or("no reason was given");
        output::say(&format!(
            "{url}: the upload could not be checked: {reason}; `keepstep pull` checks every byte"
        ));
        return Ok(None);
    }
    let own = staged.folder.join(MANIFEST);
    let own_size = std::fs::metadata(&own).map_err(|error| Failure::at(&own, &error))?.len();
    let files = staged.manifest.files.iter().map(|(name, entry)| (name.as_str(), entry.size_bytes));
    for (name, expected) in files.chain([(MANIFEST, own_size)]) {
        let size = answer["sizes"][name].as_u64();
        if size != Some(expected) {
            let found = size.map_or("it is missing".to_owned(), |size| format!("it has {size} bytes"));
            return Err(Failure::new(
                1,
                format!(
                    "{url}: the upload is incomplete: {name} should have {expected} bytes, and {found}; push again"
                ),
            ));
        }
    }
    Ok(answer["version"].as_u64())
}
