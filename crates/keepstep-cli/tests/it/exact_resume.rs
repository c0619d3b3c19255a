//! A run that was stopped ends in the same bytes as one that was not.

use crate::support;

use std::fs;
use support::{Lab, UPDATES, damage, expect, newest, said};

fn stop_after(lab: &Lab, run: &str, updates: u64) {
    expect(lab.train(run).args(["--stop-after", &updates.to_string()]), 75);
}

#[test]
fn stopped_at_every_update_and_finished_by_a_new_process() {
    let lab = Lab::new();
    let output = expect(&mut lab.train("straight"), 0);
    let bests = said(&output).matches("(best so far)").count();
    assert!((2..7).contains(&bests), "the best model moves, but not every time: {bests}");
    let straight = lab.checkpoints("straight");
    assert_eq!(straight.len() as u64, UPDATES / 2 + 1, "{straight:?}");
    assert!(straight.contains_key("best_model.pt"));
    assert!(straight.contains_key("checkpoint_epoch3_final_global12.pt"));
    for updates in 1..UPDATES {
        let run = format!("stopped{updates}");
        stop_after(&lab, &run, updates);
        expect(&mut lab.train(&run), 0);
        assert_eq!(lab.checkpoints(&run), straight, "stopped after {updates} updates");
    }
}

#[test]
fn resumed_from_a_resume_of_a_resume() {
    let lab = Lab::new();
    let straight = lab.straight("straight");
    for stride in [1, 3] {
        let run = format!("stride{stride}");
        let mut done = 0;
        while done + stride < UPDATES {
            stop_after(&lab, &run, stride);
            done += stride;
        }
        expect(&mut lab.train(&run), 0);
        assert_eq!(lab.checkpoints(&run), straight, "stopped every {stride} updates");
    }
}

#[test]
fn resumed_from_a_folder_that_is_only_read() {
    let lab = Lab::new();
    let straight = lab.straight("straight");
    for updates in [5, 8] {
        let (source, run) = (format!("input{updates}"), format!("working{updates}"));
        stop_after(&lab, &source, updates);
        let before = lab.checkpoints(&source);
        let mut permissions = fs::metadata(lab.path(&source)).expect("the folder").permissions();
        permissions.set_readonly(true);
        fs::set_permissions(lab.path(&source), permissions).expect("a read-only folder");

        let output = expect(lab.train(&run).arg("--resume").arg(lab.path(&source)), 0);

        assert!(said(&output).contains(&format!("Global step: {updates}")), "{}", said(&output));
        assert_eq!(lab.checkpoints(&source), before, "the source was changed");
        let finished = lab.checkpoints(&run);
        for (name, hash) in &finished {
            assert_eq!(Some(hash), straight.get(name), "{name}");
        }
        for name in
            straight.keys().filter(|name| support::global_step(name).is_none_or(|step| step > updates))
        {
            assert!(finished.contains_key(name), "{name} is missing");
        }
    }
}

#[test]
fn the_newest_file_is_damaged() {
    let lab = Lab::new();
    let straight = lab.straight("straight");
    for updates in [6, 7] {
        let run = format!("damaged{updates}");
        stop_after(&lab, &run, updates);
        let victim = newest(&lab.path(&run));
        damage(&victim);
        let output = expect(&mut lab.train(&run), 0);
        let name = victim.file_name().expect("a name").to_string_lossy();
        assert!(said(&output).contains(&*name), "the damaged file is not named:\n{}", said(&output));
        assert_eq!(lab.checkpoints(&run), straight);
    }
}

#[test]
fn a_finished_run_does_nothing_and_says_so() {
    let lab = Lab::new();
    let straight = lab.straight("straight");
    let output = expect(&mut lab.train("straight"), 0);
    assert!(said(&output).contains("NOTHING LEFT TO DO"), "{}", said(&output));
    assert_eq!(lab.checkpoints("straight"), straight);
}

#[test]
fn a_folder_keeps_the_newest_four_and_the_best() {
    let lab = Lab::new();
    let limit = ["--set", "max_checkpoints=4"];
    expect(lab.train("straight").args(limit), 0);
    let straight = lab.checkpoints("straight");
    let mut names: Vec<&str> = straight.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "best_model.pt",
            "checkpoint_epoch2_final_global8.pt",
            "checkpoint_epoch2_step6_global6.pt",
            "checkpoint_epoch3_final_global12.pt",
            "checkpoint_epoch3_step6_global10.pt",
        ]
    );
    expect(lab.train("stopped").args(limit).args(["--stop-after", "7"]), 75);
    expect(lab.train("stopped").args(limit), 0);
    assert_eq!(lab.checkpoints("stopped"), straight);
}

/// Going back in a finished run makes updates again: the journal knows what they were.
#[test]
fn updates_made_again_are_compared_with_the_journal() {
    let lab = Lab::new();
    let straight = lab.straight("run");
    let rewind = |extra: &[&str], status: i32| {
        let from = lab.path("run/checkpoint_epoch1_final_global4.pt");
        expect(lab.train("run").arg("--resume").arg(from).arg("--rewind").args(extra), status)
    };
    let output = rewind(&[], 0);
    assert!(said(&output).contains("8 updates replayed, all identical"), "{}", said(&output));
    assert_eq!(lab.checkpoints("run"), straight);

    let journal = lab.path("run/journal.jsonl");
    let text = fs::read_to_string(&journal).expect("the journal");
    let line = text
        .lines()
        .rfind(|line| line.contains(r#""event":"update""#) && line.contains(r#""global_step":7"#));
    let line = line.expect("update 7");
    let bits = line.split(r#""loss_bits":""#).nth(1).expect("bits").split('"').next().expect("their end");
    let other = if bits.ends_with('0') { "1" } else { "0" };
    let changed = format!("{}{other}", &bits[..bits.len() - 1]);
    let tampered = text.replace(bits, &changed);
    fs::write(&journal, &tampered).expect("a journal with another loss");
    // Every start reports it until a flag allows the resume.
    for _ in 0..2 {
        let output = rewind(&["--set", "on_divergence=stop"], 1);
        let said = said(&output);
        assert!(said.contains("global step 7") && said.contains(&changed) && said.contains(bits), "{said}");
        assert!(said.contains("2 updates before it are identical"), "{said}");
    }
    fs::write(&journal, tampered).expect("a journal with another loss");
    let output = rewind(&[], 0);
    assert!(said(&output).contains("DIVERGED") && said(&output).contains(bits), "{}", said(&output));
    assert_eq!(lab.checkpoints("run"), straight);
}

/// The journal next to a read-only source is carried over.
#[test]
fn the_journal_goes_on_in_the_new_folder() {
    let lab = Lab::new();
    expect(lab.train("input").args(["--stop-after", "5"]), 75);
    expect(lab.train("working").arg("--resume").arg(lab.path("input")), 0);
    let text = fs::read_to_string(lab.path("working/journal.jsonl")).expect("the journal");
    let updates = text.lines().filter(|line| line.contains(r#""event":"update""#)).count() as u64;
    assert_eq!(updates, UPDATES);
}

/// A run that ends by its number of updates, within an epoch and at the end of one.
#[test]
fn total_steps_ends_a_run_anywhere() {
    let lab = Lab::new();
    for total in ["7", "8"] {
        let set = ["--set", &format!("total_steps={total}")];
        let straight = format!("straight{total}");
        expect(lab.train(&straight).args(set), 0);
        let expected = lab.checkpoints(&straight);
        assert!(expected.keys().any(|name| name.ends_with(&format!("_global{total}.pt"))), "{expected:?}");
        for stop in ["4", "6"] {
            let run = format!("stopped{total} {stop}");
            expect(lab.train(&run).args(set).args(["--stop-after", stop]), 75);
            expect(lab.train(&run).args(set), 0);
            assert_eq!(lab.checkpoints(&run), expected, "{total} updates, stopped after {stop}");
        }
        let output = expect(lab.train(&straight).args(set), 0);
        assert!(said(&output).contains("NOTHING LEFT TO DO"), "{}", said(&output));
        // More epochs change nothing where total_steps ends the run.
        expect(lab.train(&straight).args(set).args(["--set", "epochs=9"]), 0);
    }
}

/// A finished run can be made longer if the learning rate does not depend on the length.
#[test]
fn a_run_with_a_constant_rate_may_grow() {
    let lab = Lab::new();
    let constant = ["--set", "schedule.kind=constant_with_warmup"];
    expect(lab.train("straight").args(constant), 0);
    expect(lab.train("grown").args(constant).args(["--set", "epochs=2"]), 0);
    expect(lab.train("grown").args(constant), 0);
    let (straight, grown) = (lab.checkpoints("straight"), lab.checkpoints("grown"));
    let after = |name: &&String| support::global_step(name).is_some_and(|step| step > 8);
    assert_eq!(straight.keys().filter(after).count(), 2);
    for name in straight.keys().filter(after) {
        assert_eq!(grown.get(name), straight.get(name), "{name}");
    }
    // With a cosine it may not.
    expect(lab.train("cosine").args(["--set", "epochs=2"]), 0);
    let output = expect(&mut lab.train("cosine"), 2);
    assert!(said(&output).contains("`epochs`"), "{}", said(&output));
}
