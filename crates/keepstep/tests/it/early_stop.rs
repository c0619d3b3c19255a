//! Runs that end early, updates of which little is known, and what other programs read of a run.

use keepstep::identity::Identity;
use keepstep::journal::JOURNAL;
use keepstep::metrics::{Evaluation, Objective};
use keepstep::run::{Policy, RunError, RunState, Sizes, Status, UpdateStats};
use keepstep::{Run, State};
use keepstep_pt::Dict;
use std::path::Path;

fn open(folder: &Path) -> Run {
    let policy = Policy {
        save_steps: 2,
        eval_steps: Some(1),
        objective: Objective::max("accuracy"),
        status_file: true,
        ..Policy::default()
    };
    Run::open(folder, Identity::new(1), Sizes::new(10, 1), policy).expect("a run")
}

/// Trains until the accuracy no longer rises, which it does not after update 3; `most` updates in this session.
fn train(folder: &Path, most: u64) -> Option<String> {
    let mut run = open(folder);
    let mut made = 0;
    while made < most
        && let Some(update) = run.next_update()
    {
        made += 1;
        run.record_update(&update, UpdateStats::default().with_skipped(update.global_step == 1));
        let accuracy = run.position().global_step.min(3) as f64 / 10.0;
        if !run.record_evaluation(Evaluation::default().with("accuracy", accuracy)).expect("the metric").best
        {
            run.stop("no improvement");
        }
        run.save_if_due(|| State::new(Dict::new())).expect("a save");
    }
    run.save_now(|| State::new(Dict::new())).expect("a save");
    run.end_session("as asked");
    run.stopped().map(str::to_owned)
}

#[test]
fn a_run_that_its_loop_has_ended_stays_ended() {
    let (straight, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    assert_eq!(train(straight.path(), 99).as_deref(), Some("no improvement"));
    for most in [1, 2, 99, 99] {
        train(folder.path(), most);
    }
    let status = Status::read(folder.path()).expect("a status");
    assert_eq!((status.state, status.global_step), (RunState::Finished, 4));
    assert_eq!(status.reason.as_deref(), Some("no improvement"));
    assert_eq!(status.id, open(straight.path()).id());
    for name in ["best_model.pt", "checkpoint_epoch1_step2_global2.pt", "checkpoint_epoch1_step4_global4.pt"]
    {
        let [one, other] =
            [&straight, &folder].map(|folder| std::fs::read(folder.path().join(name)).expect(name));
        assert!(one == other, "{name}");
    }
    let end =
        keepstep::store::load(&folder.path().join("checkpoint_epoch1_step4_global4.pt")).expect("the end");
    assert_eq!(end.stopped.as_deref(), Some("no improvement"));
    assert_eq!(end.metrics.best.map(|best| (best.position.global_step, best.value)), Some((3, 0.3)));
}

#[test]
fn a_session_that_stops_is_not_a_run_that_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(train(folder.path(), 1), None);
    let status = Status::read(folder.path()).expect("a status");
    assert_eq!((status.state, status.reason.as_deref()), (RunState::Stopped, Some("as asked")));
    assert_eq!(status.checkpoint.as_deref(), Some("checkpoint_epoch1_step1_global1.pt"));
}

#[test]
fn what_is_not_known_of_an_update_is_not_in_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    train(folder.path(), 2);
    let text = std::fs::read_to_string(folder.path().join(JOURNAL)).expect("a journal");
    let updates: Vec<&str> = text.lines().filter(|line| line.contains("\"update\"")).collect();
    assert_eq!(updates.len(), 2);
    for key in ["loss", "learning_rate", "grad_norm"] {
        assert!(!updates[0].contains(key), "{key}");
    }
    assert!(!updates[0].contains("skipped") && updates[1].contains("\"skipped\":true"));
}

#[test]
fn another_objective_and_an_evaluation_without_its_metric_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    train(folder.path(), 1);
    let other = Run::open(folder.path(), Identity::new(1), Sizes::new(10, 1), Policy::default());
    let RunError::Config { differences, .. } = other.expect_err("another objective") else {
        panic!("a config")
    };
    assert_eq!(differences[0].key, "best");
    let error = open(folder.path()).record_evaluation(0.5).expect_err("no accuracy");
    assert!(error.to_string().contains("`accuracy`"), "{error}");
}
