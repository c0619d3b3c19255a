//! Journals that an earlier keepstep wrote stay readable, and a line is written as it was.

use keepstep::journal::curve::{Series, has_sample};
use keepstep::journal::sessions::{saves, sessions};
use keepstep::journal::{Event, JOURNAL, Line};
use std::path::Path;

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read_to_string(path).expect("a fixture")
}

fn folder(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(JOURNAL), fixture(name)).expect("a journal");
    folder
}

#[test]
fn every_line_is_an_event_that_is_written_as_it_was() {
    for name in ["journal.jsonl", "journal_not_finite.jsonl"] {
        for text in fixture(name).lines() {
            let line: Line = serde_json::from_str(text).expect("an event");
            assert_ne!(line.event, Event::Other, "{text}");
            assert_eq!(serde_json::to_value(line).expect("JSON").to_string(), text);
        }
    }
}

#[test]
fn sessions_curve_and_saves_are_those_of_the_run() {
    let folder = folder("journal.jsonl");
    let sessions = sessions(folder.path()).expect("sessions");
    let numbers: Vec<_> = sessions.iter().map(|it| (it.updates, it.replayed, it.lost)).collect();
    assert_eq!(numbers, [(13, 0, 3), (7, 3, 0), (13, 0, 0)]);
    assert_eq!(sessions[2].reason.as_deref(), Some("finished"));
    let mut series = Series::open(folder.path()).expect("a curve");
    let points: Vec<_> = std::iter::from_fn(|| series.next_point().expect("readable")).collect();
    let updates = points.iter().filter_map(|point| match &point.event {
        Event::Update(update) => Some(update.global_step),
        _ => None,
    });
    assert!(updates.eq(1..=30));
    let losses = points.iter().filter_map(|point| match &point.event {
        Event::Evaluation(evaluation) => evaluation.val_loss,
        _ => None,
    });
    assert!(losses.eq([4.363202540639726, 3.2000415069974526, 2.785465769166221]));
    assert!(has_sample(folder.path(), 30) && !has_sample(folder.path(), 29));
    let saves = saves(folder.path());
    assert!(!saves["checkpoint_epoch1_step34_global17.pt"]);
    assert!(saves["checkpoint_epoch1_step60_global30.pt"]);
}

#[test]
fn a_session_that_a_number_ended_has_its_reason() {
    let folder = folder("journal_not_finite.jsonl");
    assert_eq!(sessions(folder.path()).expect("sessions")[0].reason.as_deref(), Some("not finite"));
}
