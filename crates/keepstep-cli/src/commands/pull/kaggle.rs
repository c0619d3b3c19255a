//! `keepstep pull` from a dataset or a notebook's output on Kaggle.

use crate::arguments::PullArguments;
use crate::bundle::{Contents, Installed, Manifest, SideFolder, find_folder, install, present, refuse_other};
use crate::commands::kaggle::{HUB, Kind, Place};
use crate::failure::Failure;
use crate::output;
use crate::python::{Python, request};
use serde_json::json;

pub(super) fn pull(arguments: &PullArguments) -> Result<(), Failure> {
    let (url, dir) = (&arguments.url, &arguments.dir);
    let place = Place::parse(url)?;
    let python = Python::find(arguments.python.as_deref());
    let there = present(dir)?;
    let side = SideFolder::new(dir, "pull")?;
    if let (Kind::Dataset, Some(there)) = (place.kind, &there) {
        // A small file tells before the large ones are downloaded.
        let look = json!({ "handle": place.handle(), "folder": side.make("look")? });
        let found = python.call(HUB, &request("look", look), url, true)?;
        if let Some(manifest) = found["manifest"].as_str().and_then(|text| Manifest::parse(text).ok()) {
            refuse_other(dir, there, &manifest.run, url)?;
            if there.position.global_step >= manifest.global_step {
                return report(
                    arguments,
                    Installed::Nothing { global_step: there.position.global_step },
                    None,
                );
            }
        }
    }
    let folder = side.make("download")?;
    let kind = if place.kind == Kind::Dataset { "dataset" } else { "notebook" };
    let download = json!({ "handle": place.handle(), "kind": kind, "folder": folder });
    python.call(HUB, &request("download", download), url, arguments.json)?;
    let run = find_folder(&folder, url, place.folder.as_deref())?;
    let contents = Contents::verify(&run, url)?;
    for note in &contents.notes {
        output::say(&format!("{url}: {note}"));
    }
    let installed = install(&contents, &side, dir, url)?;
    report(arguments, installed, Some(&contents))
}

fn report(
    arguments: &PullArguments,
    installed: Installed,
    contents: Option<&Contents>,
) -> Result<(), Failure> {
    let PullArguments { url, dir, json, .. } = arguments;
    let position = contents.map(|contents| contents.newest.position);
    if *json {
        return output::print_json(&json!({
            "url": url, "folder": dir, "changed": !matches!(installed, Installed::Nothing { .. }),
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
            output::print(&format!("Pulled {} from {url} into {dir}\n", contents.newest.position))
        }
        (_, None) => Ok(()),
    }
}
