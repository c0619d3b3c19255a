//! Checkpoints of format version 1, which an earlier keepstep wrote, resume to the bytes that it came to.

use crate::toy::{Model, identity, policy, sizes};
use keepstep::Run;
use std::path::Path;

/// Continues from a committed checkpoint to the end of the run.
fn end_of(fixture: &str, name: &str, learning_rate: f64) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(fixtures().join(fixture), folder.path().join(name)).expect("a copy");
    let mut run = Run::open(folder.path(), identity(learning_rate), sizes(), policy()).expect("it resumes");
    assert!(run.position().global_step > 0);
    let mut model = Model::load(run.resumed().map(|(_, checkpoint)| checkpoint));
    loop {
        if run.evaluation_is_due() {
            run.record_evaluation(model.val_loss()).expect("the metric");
        }
        let num_updates = run.num_updates();
        run.save_if_due(|| model.state(num_updates)).expect("a save");
        if !model.update(&mut run, learning_rate) {
            break;
        }
    }
    std::fs::read(folder.path().join("checkpoint_epoch3_final_global9.pt")).expect("the end")
}

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version_1")
}

fn expected(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).expect("a fixture")
}

#[test]
fn from_the_middle_of_an_epoch() {
    assert!(end_of("middle.pt", "checkpoint_epoch2_step4_global5.pt", 0.1) == expected("straight_end.pt"));
}

#[test]
fn from_before_an_evaluation() {
    assert!(end_of("pending.pt", "checkpoint_epoch1_final_global3.pt", 0.1) == expected("straight_end.pt"));
}

#[test]
fn from_a_branch() {
    assert!(end_of("branch.pt", "checkpoint_epoch2_step4_global5.pt", 0.05) == expected("branch_end.pt"));
}
