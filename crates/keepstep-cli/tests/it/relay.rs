//! `keepstep relay` with the real `kaggle` program, against a server of ours that runs what is pushed: each session in an
//! empty folder, with the outputs of its sources as its only input.

use crate::kaggle::{Server, json_in};
use crate::support;

use serde_json::json;
use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::local_server::uploaders_python;
use support::{Lab, expect, hash, newest, program, said};

/// What a session does: at most 5 updates, from its input if it has one.
const SCRIPT: &str = r#"
import os, pathlib, subprocess

words = [os.environ["KEEPSTEP"], "train", os.environ["CONFIG"], "--set", "output_dir=run", "--stop-after", "5"]
for folder in sorted(pathlib.Path(os.environ["INPUT"]).glob("*/run")):
    words += ["--resume", str(folder)]
print("a line of the session's log", flush=True)
assert subprocess.run(words).returncode in (0, 75)
"#;

struct Relay {
    lab: Lab,
    server: Server,
}

impl Relay {
    fn new() -> Relay {
        let lab = Lab::new();
        let folder = lab.path("notebook");
        fs::create_dir(&folder).expect("a folder");
        let metadata = json!({
            "id": "ann/gpt-days", "title": "gpt-days", "code_file": "train.py", "language": "python",
            "kernel_type": "script", "is_private": true, "enable_gpu": false, "kernel_sources": [],
        });
        fs::write(folder.join("kernel-metadata.json"), metadata.to_string()).expect("metadata");
        fs::write(folder.join("train.py"), SCRIPT).expect("a script");
        let environment = [
            ("KEEPSTEP", env!("CARGO_BIN_EXE_keepstep").to_owned()),
            ("CONFIG", lab.path("config.toml").display().to_string()),
        ];
        let server = Server::start(&lab, &environment);
        Relay { lab, server }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = program();
        self.server.serve(&mut command);
        command.arg("relay").arg(self.lab.path("notebook")).args(["--poll", "1s"]).args(words);
        let kaggle = uploaders_python().parent().expect("its folder").join("kaggle");
        command.arg("--kaggle").arg(kaggle);
        command
    }

    fn run(&self, words: &[&str], status: i32) -> String {
        text(&expect(&mut self.command(words), status))
    }

    fn started(&self) -> usize {
        self.server.calls()["calls"]
            .as_array()
            .expect("calls")
            .iter()
            .filter(|call| **call == "SaveKernel")
            .count()
    }
}

fn text(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), said(output));
    assert!(!text.contains("key-of-ann") && !text.contains("SIGNED-SECRET"), "{text}");
    text
}

#[test]
#[ignore = "needs kaggle: cargo xtask test"]
fn a_training_of_days_ends_in_the_bytes_of_one_session() {
    let relay = Relay::new();
    // The bound holds over calls, and a second relay is refused while one is at work.
    let said = relay.run(&["--max-sessions", "1"], 75);
    assert!(said.contains("Stopped by --max-sessions 1 at global step 5 of 12"), "{said}");
    let mut killed = support::start(&mut relay.command(&["--max-sessions", "3"]));
    let end = Instant::now() + Duration::from_secs(60);
    while relay.started() < 2 {
        assert!(Instant::now() < end, "the second session was not started");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = relay.run(&["--max-sessions", "3"], 1);
    assert!(said.contains("another relay is at work"), "{said}");
    killed.kill().expect("SIGKILL");
    killed.wait().expect("its end");
    // A question that fails is asked again.
    relay.server.faults(&["GetKernelSessionStatus:500"]);
    let said = relay.run(&["--max-sessions", "3", "--json"], 0);
    assert!(said.contains("asking again"), "{said}");
    let answer = json_in(&said);
    assert_eq!(answer["finished"], true);
    assert_eq!((&answer["sessions"], &answer["global_step"]), (&json!(3), &json!(12)));
    assert_eq!(relay.started(), 3);
    // Started again, it starts nothing.
    let said = relay.run(&["--max-sessions", "9"], 0);
    assert!(said.contains("The run is complete"), "{said}");
    assert_eq!(relay.started(), 3);

    let mut pull = program();
    relay.server.serve(&mut pull);
    pull.args(["pull", "kaggle://notebooks/ann/gpt-days"]).arg(relay.lab.path("pulled"));
    expect(pull.arg("--python").arg(uploaders_python()), 0);
    let straight = relay.lab.straight("straight");
    let last = newest(&relay.lab.path("pulled"));
    let name = last.file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(straight[&name], hash(&last));
    assert_eq!(straight["best_model.pt"], hash(&relay.lab.path("pulled/best_model.pt")));
}

#[test]
#[ignore = "needs kaggle: cargo xtask test"]
fn no_session_follows_one_that_did_not_help() {
    let relay = Relay::new();
    relay.server.faults(&["quota"]);
    let said = relay.run(&[], 1);
    assert!(said.contains("was not started: Maximum weekly GPU quota"), "{said}");
    assert_eq!(relay.run(&["--max-sessions", "1"], 75).matches("started version").count(), 1);
    // It ends with an error, and leaves a log.
    relay.server.faults(&["session:error"]);
    let said = relay.run(&[], 1);
    assert!(said.contains("session 2 failed (ERROR: the script ended with an error)"), "{said}");
    let log = relay.lab.path("notebook/.keepstep-relay/session-2.log");
    assert!(said.contains(&log.display().to_string()), "{said}");
    assert!(fs::read_to_string(log).expect("a log").contains("a line of the session's log"));
    // The newest version has nothing to attach: the last good one is, by its number. This one leaves no output.
    relay.server.faults(&["session:nothing"]);
    let said = relay.run(&[], 1);
    assert!(said.contains("session 3 cannot be continued: its output has no status.json"), "{said}");
    // What Kaggle does not attach would begin at step 0.
    relay.server.faults(&["sources:refused"]);
    let said = relay.run(&[], 1);
    assert!(said.contains("did not attach ann/gpt-days/1"), "{said}");
    let said = relay.run(&[], 1);
    assert!(said.contains("made no progress: it ended at global step 5, and began at 5"), "{said}");
    // The input is the version at global step 5 again: two sessions to the end.
    let before = relay.started();
    let said = relay.run(&[], 0);
    assert!(said.contains("The run is complete at global step 12"), "{said}");
    assert_eq!(relay.started(), before + 2);
}

#[test]
fn a_missing_program_and_a_missing_notebook_are_sentences() {
    let lab = Lab::new();
    let mut command = program();
    let output = expect(command.arg("relay").arg(lab.path("nothing")), 2);
    assert!(said(&output).contains("kernel-metadata.json"), "{}", said(&output));
    fs::create_dir(lab.path("notebook")).expect("a folder");
    fs::write(lab.path("notebook/kernel-metadata.json"), r#"{"id": "ann/gpt", "code_file": "a.py"}"#)
        .expect("it");
    fs::write(lab.path("notebook/a.py"), "").expect("a script");
    let mut command = program();
    command.arg("relay").arg(lab.path("notebook")).args(["--kaggle", "/nowhere/kaggle"]);
    let output = expect(&mut command, 2);
    assert!(said(&output).contains("pip install kaggle"), "{}", said(&output));
}
