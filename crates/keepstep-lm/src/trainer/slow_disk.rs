//! Tests whole sessions on a disk that is slow or fails.

use super::control::{Control, Outcome};
use super::observer::{EpochReport, Observer};
use super::session::train_on;
use crate::config::{Config, OnSaveError};
use keepstep::store::{Disk, Storage};
use keepstep::testing::{Hooked, SlowDisk};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What was said, and after how many updates.
#[derive(Default)]
struct Heard {
    updates: u64,
    saved: Vec<(u64, String)>,
    notes: Vec<String>,
}

impl Observer for Heard {
    fn updated(&mut self, _: &keepstep::journal::Update, _: &EpochReport) {
        self.updates += 1;
    }
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
    fn saved(&mut self, path: &Path) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        self.saved.push((self.updates, name));
    }
}

/// Configures a run of 40 short updates.
fn config(folder: &Path, save_steps: u64) -> Config {
    std::fs::write(folder.join("corpus.txt"), "a run that stops goes on from its step ".repeat(50))
        .expect("text");
    let mut config =
        Config { output_dir: folder.join("run").display().to_string(), save_steps, ..Config::default() };
    config.data.paths = vec![folder.join("corpus.txt").display().to_string()];
    config.data.cache_dir = Some(folder.join("cache").display().to_string());
    config.data.validation_fraction = 0.2;
    config.model.block_size = 16;
    config.model.n_layer = 1;
    config.model.n_head = 1;
    config.model.n_embd = 8;
    config.batch_size = 2;
    config.epochs = 10;
    config.total_steps = Some(40);
    config.sample.max_new_tokens = 0;
    config
}

fn run(config: &Config, control: &Control, disk: &SlowDisk) -> (Result<Outcome, String>, Heard) {
    let mut heard = Heard::default();
    let outcome = train_on(config, control, &mut heard, Arc::new(Hooked(disk.clone())));
    (outcome.map_err(|error| keepstep::store::chain(&error)), heard)
}

fn disk(millis: u64, failures: u64) -> SlowDisk {
    SlowDisk::new(Duration::from_millis(millis), failures)
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = Disk.list(&folder.join("run")).expect("the run's folder");
    let paths = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "pt"));
    paths
        .map(|path| {
            let bytes = std::fs::read(&path).expect("a file");
            (PathBuf::from(path.file_name().expect("a name")), bytes)
        })
        .collect()
}

#[test]
fn training_goes_on_while_the_disk_works_and_a_due_save_waits_and_says_so_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let slow = disk(300, 0);
    let (outcome, heard) = run(&config(folder.path(), 10), &Control::default(), &slow);
    outcome.expect("a finished run");
    // The save of update 10 was reported later, and the run was complete only after its last save.
    let (updates, first) = &heard.saved[0];
    assert!(first.ends_with("global10.pt") && *updates > 10, "{first} after {updates}");
    assert!(heard.saved.last().expect("the last").1.ends_with("global40.pt"));
    let said = heard.notes.iter().filter(|note| note.contains("training waited")).count();
    assert_eq!(said, 1, "{:?}", heard.notes);

    // The files are the same as with saves in the foreground.
    let other = tempfile::tempdir().expect("a folder");
    let mut foreground = config(other.path(), 10);
    foreground.background_saving = false;
    let (outcome, heard) = run(&foreground, &Control::default(), &disk(0, 0));
    outcome.expect("a finished run");
    assert_eq!(heard.saved[0].0, 10);
    assert!(heard.notes.is_empty(), "{:?}", heard.notes);
    assert_eq!(files(folder.path()), files(other.path()));
}

#[test]
fn a_stop_finishes_the_save_under_way_and_makes_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = Control { stop_after: Some(11), ..Control::default() };
    let (outcome, heard) = run(&config(folder.path(), 10), &control, &disk(100, 0));
    let Ok(Outcome::Stopped { checkpoint: Some(path), .. }) = outcome else { panic!("{outcome:?}") };
    let saved: Vec<&str> = heard.saved.iter().map(|(_, name)| name.as_str()).collect();
    assert!(path.to_string_lossy().ends_with("global11.pt") && saved.len() == 2, "{saved:?}");
    assert!(saved[0].ends_with("global10.pt") && saved[1].ends_with("global11.pt"), "{saved:?}");
}

/// A best model that could not be saved is saved later, with its original values.
#[test]
fn failures_are_said_and_what_they_kept_from_the_disk_comes_later() {
    let straight = tempfile::tempdir().expect("a folder");
    let with = |folder: &Path, background_saving: bool| {
        let mut config = config(folder, 20);
        (config.eval_steps, config.background_saving) = (8, background_saving);
        config
    };
    run(&with(straight.path(), true), &Control::default(), &disk(0, 0)).0.expect("a finished run");
    for background in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        // The best models of updates 8 and 16 fail. The latter is saved before the checkpoint of update 20.
        let (outcome, heard) = run(&with(folder.path(), background), &Control::default(), &disk(0, 2));
        outcome.expect("a finished run");
        assert_eq!(heard.notes.iter().filter(|note| note.starts_with("NOT SAVED")).count(), 2);
        assert!(heard.notes[0].contains("best_model.pt"), "{:?}", heard.notes);
        assert_eq!(files(folder.path()), files(straight.path()), "background: {background}");
    }
}

#[test]
fn three_failures_in_a_row_end_a_run_unless_it_is_to_go_on() {
    for (policy, is_end) in [(OnSaveError::Stop, true), (OnSaveError::Continue, false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = config(folder.path(), 5);
        config.eval_steps = 1000;
        config.on_save_error = policy;
        let (outcome, heard) = run(&config, &Control::default(), &disk(0, 3));
        assert_eq!(outcome.is_err(), is_end, "{:?}", heard.notes);
        if let Err(error) = outcome {
            assert!(error.contains(".pt") && error.contains("os error 5"), "{error}");
            assert!(heard.updates < 40);
        }
    }
}
