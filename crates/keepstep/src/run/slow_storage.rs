//! Saving in the background on a storage that is slow, fails or breaks.

use super::{Policy, Run, RunBuilder, RunError, Sizes, UpdateStats};
use crate::checkpoint::State;
use crate::identity::Identity;
use crate::name::BEST_MODEL;
use crate::store::{Disk, Storage, load};
use crate::testing::{SyncSwitch, Syncs};
use keepstep_pt::{Dict, Tensor, Value};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Opens a run of 12 updates in two epochs that saves at every second update.
fn open(folder: &Path, storage: &SyncSwitch) -> Run {
    let policy = Policy { save_steps: 2, eval_steps: Some(3), ..Policy::default() };
    RunBuilder::open_on(folder, policy, storage.storage())
        .and_then(|builder| builder.start(Identity::new(1), Sizes::new(6, 2)))
        .expect("a run")
}

fn state(run: &Run) -> State {
    let mut model = Dict::new();
    model.insert("weight", Tensor::from_slice(&[run.position().global_step as f32; 8], vec![8]));
    State::of_training(model, Value::None, Value::None)
}

/// Makes one update, and an evaluation if one is due. Each is better than the last.
fn advance(run: &mut Run) {
    let update = run.next_update().expect("an update");
    run.record_update(&update, UpdateStats::new(1.0, 1).with_learning_rate(0.1).with_grad_norm(1.0));
    if run.evaluation_is_due() {
        let val_loss = 1.0 / run.position().global_step as f64;
        assert!(run.record_evaluation(val_loss).expect("the metric").best);
    }
}

fn names(files: &[PathBuf]) -> Vec<&str> {
    files.iter().filter_map(|path| path.file_name()?.to_str()).collect()
}

fn hashes(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = Disk.list(folder).expect("the folder");
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "pt"));
    files
        .map(|path| {
            let bytes = std::fs::read(&path).expect("a file");
            (path.strip_prefix(folder).expect("a file of the folder").to_path_buf(), bytes)
        })
        .collect()
}

#[test]
fn training_goes_on_while_a_save_is_under_way_and_the_next_save_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SyncSwitch::new(Syncs::Hang);
    let mut run = open(folder.path(), &storage);
    advance(&mut run);
    advance(&mut run);
    let saved = state(&run);
    assert!(run.save_is_due());
    let begun = run.save_if_due_in_background(|| saved);
    assert!(begun.begun && begun.waited.is_none() && begun.ended.is_empty());
    // An update while the disk hangs.
    advance(&mut run);
    assert!(run.saving_for().is_some() && run.saves().ended.is_empty());
    assert!(hashes(folder.path()).is_empty(), "a name before the content is durable");
    storage.set_soon(Syncs::Work);
    let saved = state(&run);
    let next = run.save_if_due_in_background(|| saved);
    assert!(next.begun && next.waited.is_some());
    assert_eq!(names(&next.check().expect("the first")), ["checkpoint_epoch1_step2_global2.pt"]);
    assert_eq!(names(&run.wait_for_saves().check().expect("the second")), [BEST_MODEL]);
    let first = load(&folder.path().join("checkpoint_epoch1_step2_global2.pt")).expect("a checkpoint");
    let values =
        first.state.get("model").and_then(|model| model.as_dict()?.get("weight")?.as_tensor()).cloned();
    assert_eq!(values.expect("the weight").to_vec::<f32>().expect("its values"), [2.0; 8]);
    assert!(run.saving_for().is_none());
}

#[test]
fn dropping_a_run_finishes_its_save() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SyncSwitch::new(Syncs::Hang);
    let mut run = open(folder.path(), &storage);
    advance(&mut run);
    advance(&mut run);
    let saved = state(&run);
    let _ = run.save_if_due_in_background(|| saved);
    storage.set_soon(Syncs::Work);
    drop(run);
    load(&folder.path().join("checkpoint_epoch1_step2_global2.pt")).expect("a checkpoint");
    // The folder is free for the next.
    assert_eq!(open(folder.path(), &storage).position().global_step, 2);
}

#[test]
fn the_files_are_those_of_saving_in_the_foreground() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    for (folder, background) in folders.iter().zip([true, false]) {
        let mut run = open(folder.path(), &SyncSwitch::new(Syncs::Work));
        while !run.is_complete() {
            advance(&mut run);
            let saved = state(&run);
            if background {
                run.save_if_due_in_background(|| saved).check().expect("what has ended");
            } else {
                run.save_if_due(|| saved).expect("a save");
            }
        }
        run.wait_for_saves().check().expect("the last");
    }
    let [one, other] = folders.each_ref().map(|folder| hashes(folder.path()));
    assert!(one.len() >= 5 && one == other);
}

#[test]
fn a_best_that_could_not_be_saved_comes_before_any_later_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SyncSwitch::new(Syncs::Work);
    let mut run = open(folder.path(), &storage);
    for step in 1..=3 {
        advance(&mut run);
        if step == 3 {
            storage.set(Syncs::Fail);
        }
        let saved = state(&run);
        let result = run.save_if_due(|| saved);
        assert_eq!(result.is_err(), step == 3);
    }
    assert_eq!(run.metrics().best.expect("a best").position.global_step, 3);
    // The best is owed, and the checkpoint that would speak of it is not published while it is.
    advance(&mut run);
    let saved = state(&run);
    let error = run.save_if_due(|| saved).expect_err("the disk fails");
    assert!(error.to_string().contains(BEST_MODEL), "{error}");
    assert!(!folder.path().join("checkpoint_epoch1_step4_global4.pt").exists());
    // The disk works again: first the best of step 3, then the checkpoint of step 4.
    storage.set(Syncs::Work);
    let saved = state(&run);
    let files = run.save_now(|| saved).expect("a save");
    assert_eq!(names(files.as_slice()), ["checkpoint_epoch1_step4_global4.pt"]);
    let best = load(&folder.path().join(BEST_MODEL)).expect("the best");
    assert_eq!((best.position.global_step, best.metrics.best), (3, run.metrics().best));
}

#[test]
fn the_save_under_way_is_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SyncSwitch::new(Syncs::Hang);
    let mut run = open(folder.path(), &storage);
    advance(&mut run);
    advance(&mut run);
    let saved = state(&run);
    let _ = run.save_if_due_in_background(|| saved);
    storage.set_soon(Syncs::Work);
    let error = run.check_finite(f64::NAN, 1.0).expect_err("not finite");
    let RunError::NotFinite { last: Some(last), .. } = error else { panic!("{error}") };
    assert_eq!(names(&[last]), ["checkpoint_epoch1_step2_global2.pt"]);
    assert_eq!(run.wait_for_saves().ended.len(), 1, "it is told all the same");
}

#[test]
fn a_panic_of_the_writer_is_the_run_s() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SyncSwitch::new(Syncs::Panic);
    let mut run = open(folder.path(), &storage);
    advance(&mut run);
    advance(&mut run);
    let saved = state(&run);
    let _ = run.save_if_due_in_background(|| saved);
    let panic = catch_unwind(AssertUnwindSafe(|| run.wait_for_saves())).expect_err("a panic");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the writer breaks"));
}

/// A folder whose best model is older than the one in its checkpoints is repaired, or the run reports it.
#[test]
fn a_best_that_is_not_the_run_s_is_put_right_or_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = SyncSwitch::new(Syncs::Work);
    let best = folder.path().join(BEST_MODEL);
    let mut run = open(folder.path(), &storage);
    let mut older = Vec::new();
    for step in 1..=8 {
        advance(&mut run);
        let saved = state(&run);
        run.save_if_due(|| saved).expect("a save");
        match step {
            3 => older = std::fs::read(&best).expect("the best of step 3"),
            6 | 8 => {
                drop(run);
                let whole = std::fs::read(&best).expect("the best of step 6");
                // The checkpoint of its position is the same file under another name.
                std::fs::remove_file(&best).expect("the best goes");
                std::fs::write(&best, &older).expect("an older best");
                run = open(folder.path(), &storage);
                let notes: String = run.notes().iter().map(|note| format!("{note}\n")).collect();
                // The newest checkpoint next to it is that of step 6, which is the best, or a later one, which is not.
                assert_eq!(std::fs::read(&best).expect("a best") == whole, step == 6, "{notes}");
                assert_eq!(notes.contains("Copied the best model"), step == 6, "{notes}");
                assert_eq!(notes.contains("is missing"), step == 8, "{notes}");
            }
            _ => {}
        }
    }
}
