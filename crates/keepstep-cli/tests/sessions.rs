//! What people see of a run's sessions, and can prove of them.

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Lab, expect, said};

#[test]
fn history_tells_the_sessions() {
    let lab = Lab::new();
    expect(lab.train("run").args(["--stop-after", "3"]), 75);
    expect(lab.train("run").args(["--stop-after", "4"]), 75);
    expect(&mut lab.train("run"), 0);
    let history = |json: bool| {
        let mut command = support::program();
        command.arg("history").arg(lab.path("run")).args(json.then_some("--json"));
        String::from_utf8(expect(&mut command, 0).stdout).expect("text")
    };
    let table = history(false);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("e1 s9 g3") && table.contains("finished") && table.contains("signal"), "{table}");
    let list: serde_json::Value = serde_json::from_str(&history(true)).expect("JSON");
    let updates: Vec<_> =
        list.as_array().expect("a list").iter().map(|session| session["updates"].as_u64()).collect();
    assert_eq!(updates, [Some(3), Some(4), Some(5)]);
    assert_eq!(list[1]["from"]["global_step"], 3);
    let output = expect(support::program().arg("history").arg(lab.path("nowhere")), 1);
    assert!(said(&output).contains("nowhere"));
}

#[test]
fn prove_says_the_same_and_touches_nothing() {
    let lab = Lab::new();
    let mut prove = support::program();
    prove.arg("prove").arg(lab.path("config.toml")).args(["--updates", "10", "--kills", "6"]);
    let output = expect(prove.args(["--set", "epochs=200"]), 0);
    let verdict = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(verdict.contains("THE SAME") && verdict.contains("kills                6"), "{verdict}");
    assert!(!lab.path("run").exists());
}

/// SIGTERM: a checkpoint, status 75, and the same end. SIGUSR1: a checkpoint, and on it goes.
#[test]
fn signals_save() {
    let lab = Lab::new();
    // Long epochs, so that nothing is saved but on request.
    std::fs::write(lab.path("corpus.txt"), support::text(60_000)).expect("the corpus");
    let long = ["--set", "epochs=2", "--set", "save_steps=1000000", "--set", "eval_steps=1000000"];
    let straight = {
        expect(lab.train("straight").args(long), 0);
        lab.checkpoints("straight")
    };
    let mut child =
        lab.train("run").args(long).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill");
        assert!(status.success());
    };
    let wait_for = |what: &str| {
        for _ in 0..200 {
            std::thread::sleep(Duration::from_millis(20));
            let text = std::fs::read_to_string(lab.path("run/journal.jsonl")).unwrap_or_default();
            if text.contains(what) {
                return;
            }
        }
        panic!("{what} does not come");
    };
    wait_for(r#""global_step":5,"#);
    signal("-USR1");
    wait_for(r#""event":"save""#);
    signal("-TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(75));
    expect(lab.train("run").args(long), 0);
    assert_eq!(lab.checkpoints("run"), straight);
}

/// The limit is kept, and the run ends as if nothing had been.
#[test]
fn a_session_ends_within_its_time() {
    let lab = Lab::new();
    let long = ["--set", "epochs=100000", "--set", "save_steps=1000000", "--set", "eval_steps=1000000"];
    let began = std::time::Instant::now();
    let output = expect(lab.train("run").args(long).args(["--time-limit", "3s"]), 75);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(said(&output).contains("Saved"), "{}", said(&output));
}

#[test]
fn progress_for_other_programs() {
    let lab = Lab::new();
    expect(lab.train("run").args(["--stop-after", "7"]), 75);
    let output = expect(lab.train("run").arg("--json-progress"), 0);
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().expect("an event")).collect();
    assert_eq!(events[..2], ["plan", "resumed"]);
    assert_eq!(events.iter().filter(|event| **event == "update").count(), 5);
    assert_eq!(events.last(), Some(&"finished"));
    assert_eq!(lines[1]["global_step"], 7);
    assert_eq!(lab.checkpoints("run"), lab.straight("straight"));
}

/// SIGTERM while text is being tokenized, before there is anything to save: it ends at once, and so does the next start.
#[test]
fn a_stop_while_tokenizing() {
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(6_000_000)).expect("the corpus");
    let set = ["--set", "data.tokenizer={ bpe = 2000 }"];
    let mut child =
        lab.train("run").args(set).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    std::thread::sleep(Duration::from_millis(300));
    let began = std::time::Instant::now();
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(75), "after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!lab.path("run").exists());
}
