//! Every operation of the store fails once, or from then on: nothing that was reported as saved is lost.

use super::{Candidates, Disk, MissingOperation, Retention, Storage, Store, StoreError, find};
use crate::cadence::Cadence;
use crate::checkpoint::{Checkpoint, State};
use crate::identity::Identity;
use crate::name::{BEST_MODEL, checkpoint_name};
use crate::position::{Plan, Position};
use crate::testing::{Faulty, Hooked, Hooks, Lacking};
use keepstep_pt::{Archive, Dict, Tensor, Value};
use std::path::Path;
use std::sync::Arc;

const PLAN: Plan = Plan { steps_per_epoch: 100, gradient_accumulation_steps: 1, total_steps: 100 };

fn archive(global_step: u64) -> Archive {
    let mut model = Dict::new();
    model.insert("weight", Tensor::from_slice(&[global_step as f32; 64], vec![64]));
    let position = Position { epoch: 1, step: global_step, global_step };
    let state = State::of_training(model, Value::None, Value::None);
    let checkpoint = Checkpoint::new(Identity::new(1), PLAN, position, state);
    Archive::new(&checkpoint.to_value())
}

/// Saves as a run does. Every third save is also the best.
fn save(store: &mut Store, step: u64) -> Result<(), StoreError> {
    let name = checkpoint_name(&PLAN, Position { epoch: 1, step, global_step: step });
    if step.is_multiple_of(3) {
        store.publish(BEST_MODEL, &archive(step))?;
        store.publish_link(&name, BEST_MODEL)?;
    } else {
        store.publish(&name, &archive(step))?;
    }
    store.rotate(&Retention { max_checkpoints: 2, cadence: Cadence::new(1, None), end: 100 }, step)
}

/// Finds the global step of the newest valid checkpoint, as the next process does.
fn found(folder: &Path) -> u64 {
    drop(Store::open(folder, Arc::new(Disk)).expect("the folder can be opened again"));
    let candidates = Candidates::new(folder);
    find(&Disk, &candidates)
        .expect("a valid checkpoint, or none")
        .map_or(0, |found| found.checkpoint.position.global_step)
}

const EINTR: i32 = 4;
const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EDQUOT: i32 = 122;
const SAVES: u64 = 8;

/// Saves on a storage that fails at one operation, or from then on. Returns the last save that was reported, the number
/// of failed saves, and whether the failing operation was reached.
fn saves(folder: &Path, fails_at: i64, forever: bool, error: i32, short: bool) -> (u64, u64, bool) {
    let faulty = Faulty::new(fails_at, error).forever(forever).short_writes(short);
    let mut reported = 0;
    let mut failures = 0;
    if let Ok(mut store) = Store::open(folder, Arc::new(Hooked(faulty.clone()))) {
        for step in 1..=SAVES {
            match save(&mut store, step) {
                Ok(()) => reported = step,
                Err(failure) => {
                    failures += 1;
                    let text = crate::store::chain(&failure);
                    assert!(text.contains(&format!("(os error {error})")), "the cause is not named: {text}");
                    assert!(text.starts_with(&folder.display().to_string()), "the file is not named: {text}");
                }
            }
        }
    }
    (reported, failures, faulty.has_failed())
}

/// Makes a folder, in memory if possible: the tests sync thousands of times, and nothing need be durable.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

#[test]
fn whatever_fails_and_whenever_nothing_reported_is_lost() {
    let mut states = 0;
    for forever in [false, true] {
        for error in [EIO, ENOSPC, EDQUOT, EROFS, EMFILE, EINTR] {
            for fails_at in 0.. {
                let folder = scratch();
                let (reported, failures, came_to_it) = saves(folder.path(), fails_at, forever, error, false);
                let newest = found(folder.path());
                assert!(
                    newest >= reported,
                    "failing at operation {fails_at}: {newest} is older than {reported}"
                );
                assert!(forever || failures <= 1, "one failure of the disk fails {failures} saves");
                // What a signal interrupts is begun again.
                assert!(forever || error != EINTR || reported == SAVES && failures == 0);
                states += 1;
                if !came_to_it {
                    assert_eq!(reported, SAVES);
                    break;
                }
            }
        }
    }
    assert!(states > 450, "{states} states");
}

#[test]
fn short_writes_are_completed() {
    let folder = scratch();
    assert_eq!(saves(folder.path(), i64::MAX, false, EIO, true), (SAVES, 0, false));
    assert_eq!(found(folder.path()), SAVES);
    for path in Disk.list(folder.path()).expect("the folder") {
        if path.extension().is_some_and(|extension| extension == "pt") {
            crate::store::load(&path).expect("a checkpoint");
        }
    }
}

const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

/// A disk behind a program.
#[derive(Debug, Clone)]
struct Fuse;

impl Hooks for Fuse {
    fn is_fuse(&self, _folder: &Path) -> bool {
        true
    }
}

#[test]
fn a_fuse_mount_is_used_and_noted() {
    let folder = scratch();
    let store = Store::open(folder.path(), Arc::new(Hooked(Fuse))).expect("it can be used");
    assert!(matches!(store.missing_operations()[..], [MissingOperation::PromptSync { .. }]));
    drop(store);
    // The kernel's own answer is read.
    assert!(!Disk.is_fuse(Path::new("/proc")));
}

#[test]
fn a_folder_that_cannot_be_synced_is_used_and_noted() {
    for error in [EINVAL, EOPNOTSUPP] {
        let folder = scratch();
        let storage = Lacking { folder_sync: Some(error), ..Lacking::default() };
        let mut store =
            Store::open(&folder.path().join("a/b"), Arc::new(Hooked(storage))).expect("it can be used");
        let missing = store.missing_operations();
        assert!(matches!(missing[..], [MissingOperation::FolderSync { .. }]), "{missing:?}");
        for step in 1..=SAVES {
            save(&mut store, step).expect("a save");
        }
        drop(store);
        assert_eq!(found(&folder.path().join("a/b")), SAVES);
    }
    // An error of a disk that has the operation ends it, and says which operation that was.
    let storage = Lacking { folder_sync: Some(EIO), ..Lacking::default() };
    let error = Store::open(scratch().path(), Arc::new(Hooked(storage))).expect_err("an error");
    assert!(crate::store::chain(&error).contains("fsync of "), "{}", crate::store::chain(&error));
}

#[test]
fn used_up_inodes_are_named() {
    let folder = scratch();
    let full = Lacking { create: Some((ENOSPC, 0)), ..Lacking::default() };
    let error =
        save(&mut Store::open(folder.path(), Arc::new(Hooked(full))).expect("a store"), 1).expect_err("full");
    assert!(matches!(error, StoreError::NoFiles { .. }), "{error}");
    let text = crate::store::chain(&error);
    assert!(text.contains("no free inodes") && text.contains("creating "), "{text}");
    let full = Lacking { create: Some((ENOSPC, 5)), ..Lacking::default() };
    let error =
        save(&mut Store::open(folder.path(), Arc::new(Hooked(full))).expect("a store"), 1).expect_err("full");
    assert!(matches!(error, StoreError::Write { .. }), "{error}");
}

/// The folder is a link to a place that is not mounted. The system's error, "File exists", would mislead.
#[test]
fn a_link_to_nowhere_is_named() {
    let folder = scratch();
    let link = folder.path().join("run");
    std::os::unix::fs::symlink(folder.path().join("mnt/disk"), &link).expect("a link");
    for run in [link.clone(), link.join("deeper")] {
        let error = Store::open(&run, Arc::new(Disk)).expect_err("nothing is mounted there");
        let text = crate::store::chain(&error);
        assert!(
            text.contains("it is a link to ") && text.contains("mnt/disk, which does not exist"),
            "{text}"
        );
    }
}
