//! The reference page of formats has every event with every field.

use super::{
    Evaluation, Event, NotFinite, Number, Push, PushFailed, PushSkipped, Sample, Save, SaveFailed, Start,
    Stop, Update,
};
use serde_json::Value;

/// One event of each kind, with every field present. A new variant must be added here: the match below has no wildcard.
fn all() -> Vec<Event> {
    let update = Update {
        loss: Some(1.0),
        loss_bits: Some(String::new()),
        learning_rate: Some(1.0),
        grad_norm: Some(1.0),
        skipped: true,
        ..Update::default()
    };
    let evaluation = Evaluation {
        val_loss: Some(1.0),
        metrics: [("accuracy".to_owned(), Number(1.0))].into(),
        ..Evaluation::default()
    };
    let events = vec![
        Event::Start(Start::default()),
        Event::Update(update),
        Event::Evaluation(evaluation),
        Event::Sample(Sample::default()),
        Event::Save(Save::default()),
        Event::SaveFailed(SaveFailed::default()),
        Event::Push(Push::default()),
        Event::PushSkipped(PushSkipped::default()),
        Event::PushFailed(PushFailed::default()),
        Event::NotFinite(NotFinite::default()),
        Event::Stop(Stop::default()),
    ];
    for event in &events {
        match event {
            Event::Start(_)
            | Event::Update(_)
            | Event::Evaluation(_)
            | Event::Sample(_)
            | Event::Save(_)
            | Event::SaveFailed(_)
            | Event::Push(_)
            | Event::PushSkipped(_)
            | Event::PushFailed(_)
            | Event::NotFinite(_)
            | Event::Stop(_)
            | Event::Other => {}
        }
    }
    events
}

fn page() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats.md");
    std::fs::read_to_string(path).expect("the page")
}

#[test]
fn every_event_has_a_row_with_every_field() {
    let page = page();
    let (_, journal) = page.split_once("## Journal").expect("the journal's part");
    for event in all() {
        let Ok(Value::Object(fields)) = serde_json::to_value(&event) else { panic!("an object") };
        let kind = fields["event"].as_str().expect("its kind");
        let row = journal.lines().find(|line| line.starts_with(&format!("| `{kind}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/formats.md has no row for {kind}"));
        for field in fields.keys().filter(|field| *field != "event") {
            assert!(row.contains(&format!("`{field}`")), "docs/formats.md: {kind} lacks {field}");
        }
    }
}
