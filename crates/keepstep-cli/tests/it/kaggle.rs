//! `keepstep push` and `pull` through the real kagglehub, against a server of ours. `cargo xtask test` makes the
//! environment and names it in KEEPSTEP_UPLOADERS_PYTHON.

use crate::support;

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::local_server::{LocalServer, uploaders_python};
use support::{Lab, damage, expect, hash, newest, program, said};

const URL: &str = "kaggle://datasets/ann/gpt-run";
const KEY: &str = "key-of-ann-5f2c";

/// Kaggle as a server of ours.
pub(crate) struct Server(pub(crate) LocalServer);

impl Server {
    pub(crate) fn start(lab: &Lab, environment: &[(&str, String)]) -> Server {
        Server(LocalServer::start(lab, "kaggle", environment))
    }

    /// Lets the packages that a command calls talk to this server.
    pub(crate) fn serve(&self, command: &mut Command) {
        command.env("KEEPSTEP_TEST_KAGGLE", self.0.url());
        command.env("PYTHONPATH", LocalServer::folder("kaggle")).env("HOME", &self.0.home);
        command.env("KAGGLE_USERNAME", "ann").env("KAGGLE_KEY", KEY);
        for name in ["KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "KAGGLE_KERNEL_RUN_TYPE"] {
            command.env_remove(name);
        }
    }

    fn command(&self, words: &[&str], folder: &Path) -> Command {
        let mut command = program();
        self.serve(&mut command);
        command.args(words).arg("--python").arg(uploaders_python()).current_dir(folder);
        command
    }

    /// What was called, and the version notes of each dataset.
    pub(crate) fn calls(&self) -> Value {
        serde_json::from_slice(&self.0.get("/calls")).expect("JSON")
    }

    pub(crate) fn faults(&self, faults: &[&str]) {
        self.0.faults(faults);
    }
}

fn root(lab: &Lab) -> PathBuf {
    lab.path("corpus.txt").parent().expect("the lab's folder").to_path_buf()
}

/// A lab with a run that was stopped at global step 5.
fn stopped() -> Lab {
    let lab = Lab::new();
    expect(lab.train("run").args(["--stop-at", "5"]), 75);
    lab
}

/// The name of the newest checkpoint of `run`.
fn newest_name(lab: &Lab) -> String {
    newest(&lab.path("run")).file_name().expect("a name").to_string_lossy().into_owned()
}

/// No command may print the key or a signed URL, or leave a folder behind.
fn check_traces(lab: &Lab, output: &Output) {
    let whole = format!("{}{}", String::from_utf8_lossy(&output.stdout), said(output));
    assert!(!whole.contains(KEY) && !whole.contains("SIGNED-SECRET"), "{whole}");
    let left: Vec<_> =
        fs::read_dir(root(lab)).expect("the lab").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

/// The JSON in what a command printed.
pub(crate) fn json_in(text: &str) -> Value {
    let (start, end) = (text.find('{').expect("JSON"), text.rfind('}').expect("JSON"));
    serde_json::from_str(&text[start..=end]).expect("JSON")
}

fn run_checked(lab: &Lab, command: &mut Command, status: i32) -> String {
    let output = expect(command, status);
    check_traces(lab, &output);
    format!("{}{}", String::from_utf8_lossy(&output.stdout), said(&output))
}

#[test]
#[ignore = "needs kagglehub: cargo xtask test"]
fn a_run_goes_through_a_dataset_and_ends_in_the_same_bytes() {
    let lab = stopped();
    let server = Server::start(&lab, &[]);
    let root = root(&lab);
    server.faults(&["status:BLOBS_RECEIVED"]);
    let text = run_checked(&lab, &mut server.command(&["push", "run", URL], &root), 0);
    assert!(
        text.contains("Pushed epoch 2, step 3, global step 5 of 12") && text.contains("version 1"),
        "{text}"
    );
    run_checked(&lab, &mut server.command(&["pull", URL, "fresh"], &root), 0);
    let there = newest(&lab.path("run"));
    assert_eq!(hash(&newest(&lab.path("fresh"))), hash(&there));
    for name in ["best_model.pt", "journal.jsonl", "status.json", "corpus.sha256"] {
        assert_eq!(hash(&lab.path("fresh").join(name)), hash(&lab.path("run").join(name)), "{name}");
    }
    assert!(!lab.path("fresh/keepstep.json").exists() && !lab.path("fresh/.complete").exists());

    // The fresh folder goes on to the bytes of an uninterrupted run, and back again through the next version.
    expect(&mut lab.train("fresh"), 0);
    let straight = lab.straight("straight");
    let fresh = lab.checkpoints("fresh");
    let later = fresh.iter().filter(|(name, _)| support::global_step(name).is_some_and(|step| step > 5));
    assert!(later.clone().count() >= 4);
    for (name, hash) in later {
        assert_eq!(straight.get(name), Some(hash), "{name}");
    }
    run_checked(&lab, &mut server.command(&["push", "fresh", URL], &root), 0);
    // kagglehub gives no notes to the first version.
    let notes = server.calls()["notes"]["ann/gpt-run"][1].clone();
    assert!(
        notes.as_str().is_some_and(|notes| notes.contains("epoch 3, step 10, global step 12 of 12")),
        "{notes}"
    );
    // The first folder is behind: what is new is added.
    let text = run_checked(&lab, &mut server.command(&["pull", URL, "run"], &root), 0);
    assert!(text.contains("Pulled"), "{text}");
    assert_eq!(hash(&newest(&lab.path("run"))), hash(&newest(&lab.path("fresh"))));
    assert_eq!(hash(&lab.path("run/best_model.pt")), straight["best_model.pt"]);
    expect(program().arg("verify").arg(lab.path("run")), 0);
    let text = run_checked(&lab, &mut server.command(&["pull", URL, "run"], &root), 0);
    assert!(text.contains("nothing was changed"), "{text}");
    // An older version is later than nothing, and is not forced upon a folder that is ahead.
    let older = format!("{URL}/versions/1");
    run_checked(&lab, &mut server.command(&["pull", &older, "old"], &root), 0);
    assert_eq!(hash(&newest(&lab.path("old"))), hash(&there));
    let text = run_checked(&lab, &mut server.command(&["push", "old", URL], &root), 1);
    assert!(text.contains("later than 5"), "{text}");
    let text = run_checked(
        &lab,
        &mut server.command(&["push", "run", URL, "--best", "--json", "--take-over"], &root),
        0,
    );
    let answer: Value = json_in(&text);
    assert_eq!((&answer["version"], &answer["checked"]), (&json!(3), &json!(true)));
    assert_eq!(answer["checkpoint"], "best_model.pt");
}

#[test]
#[ignore = "needs kagglehub: cargo xtask test"]
fn other_runs_and_files_are_never_hidden_or_mixed() {
    let lab = stopped();
    let server = Server::start(&lab, &[]);
    let root = root(&lab);
    run_checked(&lab, &mut server.command(&["push", "run", URL], &root), 0);
    expect(lab.train("other").args(["--set", "seed=8", "--stop-at", "5"]), 75);
    let text = run_checked(&lab, &mut server.command(&["push", "other", URL], &root), 1);
    assert!(text.contains("holds the run") && text.contains("--take-over"), "{text}");
    let before = lab.checkpoints("other");
    let text = run_checked(&lab, &mut server.command(&["pull", URL, "other"], &root), 1);
    assert!(text.contains("choose another folder"), "{text}");
    assert_eq!(lab.checkpoints("other"), before);
    fs::create_dir(lab.path("photos")).expect("a folder");
    fs::write(lab.path("photos/cat.jpg"), "a cat").expect("a file");
    let text = run_checked(&lab, &mut server.command(&["pull", URL, "photos"], &root), 1);
    assert!(text.contains("choose an empty one"), "{text}");
    // A dataset that someone filled by hand.
    let script = "import kagglehub, sys; kagglehub.dataset_upload('ann/corpus', sys.argv[1])";
    let mut by_hand = Command::new(uploaders_python());
    server.serve(&mut by_hand);
    expect(by_hand.args(["-c", script]).arg(lab.path("photos")), 0);
    let text =
        run_checked(&lab, &mut server.command(&["push", "run", "kaggle://datasets/ann/corpus"], &root), 1);
    assert!(text.contains("keepstep did not push"), "{text}");
    // What a newer keepstep pushed.
    fs::write(lab.path("photos/keepstep.json"), r#"{"format": 9}"#).expect("a manifest");
    let mut by_hand = Command::new(uploaders_python());
    server.serve(&mut by_hand);
    expect(by_hand.args(["-c", &script.replace("corpus", "newer")]).arg(lab.path("photos")), 0);
    for words in
        [["push", "run", "kaggle://datasets/ann/newer"], ["pull", "kaggle://datasets/ann/newer", "x"]]
    {
        let text = run_checked(&lab, &mut server.command(&words, &root), 1);
        assert!(text.contains("use a newer keepstep"), "{text}");
    }
    // A damaged newest checkpoint never goes out.
    damage(&newest(&lab.path("run")));
    let text =
        run_checked(&lab, &mut server.command(&["push", "run", "kaggle://datasets/ann/second"], &root), 0);
    assert!(text.contains("is damaged and left out") && text.contains("global step 4 of 12"), "{text}");
}

/// What a notebook's input holds, which is read-only, is pushed from copies.
#[test]
#[ignore = "needs kagglehub: cargo xtask test"]
fn a_run_below_a_read_only_input_is_pushed() {
    let lab = Lab::new();
    fs::create_dir(lab.path("input")).expect("a folder");
    expect(lab.train("input/run").args(["--stop-at", "5"]), 75);
    let server = Server::start(&lab, &[]);
    let root = root(&lab);
    let push = server.command(&["push", "input/run", URL], &root);
    let text = run_checked(&lab, &mut support::read_only(&lab.path("input"), &push), 0);
    assert!(text.contains("Pushed epoch 2, step 3, global step 5 of 12"), "{text}");
    run_checked(&lab, &mut server.command(&["pull", URL, "fresh"], &root), 0);
    assert_eq!(hash(&newest(&lab.path("fresh"))), hash(&newest(&lab.path("input/run"))));
}

#[test]
#[ignore = "needs kagglehub: cargo xtask test"]
fn every_failure_of_a_push_is_a_sentence() {
    let lab = stopped();
    let server = Server::start(&lab, &[]);
    let root = root(&lab);
    let push = || server.command(&["push", "run", URL], &root);
    let refused = |command: &mut Command, part: &str| {
        let text = run_checked(&lab, command, 1);
        assert!(text.contains(part) && !text.contains("Traceback"), "{part}: {text}");
    };
    // A connection that breaks in the middle is resumed by kagglehub.
    let cut = format!("put-{}:cut", newest_name(&lab));
    server.faults(&[&cut]);
    run_checked(&lab, &mut push(), 0);
    // One that breaks when the server forgets how much it has: kagglehub reports success, and we do not.
    server.faults(&[&cut, "check:500"]);
    refused(&mut push(), "the upload is incomplete");
    server.faults(&["put:503"]);
    refused(&mut push(), "503");
    server.faults(&["status:FAILED"]);
    refused(&mut push(), "could not process");
    server.faults(&["ListDatasetFiles:500"]);
    let text = run_checked(&lab, &mut push(), 0);
    assert!(text.contains("could not be checked"), "{text}");
    server.faults(&["StartBlobUpload:403"]);
    refused(&mut push(), "403");
    server.faults(&["DownloadDataset:500"]);
    refused(&mut push(), "500");
    refused(push().env("KAGGLE_KEY", "wrong"), "not accepted (401)");
    refused(push().env_remove("KAGGLE_KEY"), "found no credentials");
    refused(&mut server.command(&["push", "run", "kaggle://datasets/bob/gpt"], &root), "403");
    refused(push().env("KEEPSTEP_TEST_KAGGLE", "http://127.0.0.1:9"), "the network failed");
    // The newest version that is complete is still there. A transfer that fails is no reason to take an older one.
    server.faults(&["download-archive.zip:flip"]);
    refused(&mut server.command(&["pull", URL, "fresh"], &root), "kagglehub failed");
    server.faults(&["download-archive.zip:damaged"]);
    let explicit = format!("{URL}/versions/1");
    refused(&mut server.command(&["pull", &explicit, "fresh"], &root), "the download is damaged");
    server.faults(&["download-archive.zip:cut"]);
    refused(&mut server.command(&["pull", URL, "fresh"], &root), "fail");
    server.faults(&["GetDataset:404", "GetDataset:404"]);
    refused(&mut server.command(&["pull", URL, "fresh"], &root), "does not exist (404)");
    assert!(!lab.path("fresh").exists());
    run_checked(&lab, &mut server.command(&["pull", URL, "fresh"], &root), 0);
}

#[test]
#[ignore = "needs kagglehub: cargo xtask test"]
fn after_a_push_that_broke_off_the_version_before_it_counts() {
    let lab = stopped();
    let server = Server::start(&lab, &[]);
    let root = root(&lab);
    let run = |words: &[&str], status| run_checked(&lab, &mut server.command(words, &root), status);
    let break_off = |name: &str, url: &str| {
        server.faults(&[&format!("put-{name}:cut"), "check:500"]);
        let text = run(&["push", "run", url], 1);
        assert!(text.contains(&format!("the upload is incomplete: {name}")), "{text}");
    };
    let there = newest(&lab.path("run"));
    run(&["push", "run", URL], 0);
    break_off("keepstep.json", URL);
    // Version 2 has half a manifest. A pull reports that and takes version 1, and a number is taken at its word.
    let text = run(&["pull", URL, "first", "--json"], 0);
    assert!(text.contains("version 2: the download is damaged: keepstep.json cannot be read"), "{text}");
    assert!(text.contains("trying the version before it"), "{text}");
    assert_eq!(json_in(&text)["version"], 1);
    assert_eq!(hash(&newest(&lab.path("first"))), hash(&there));
    let text = run(&["pull", &format!("{URL}/versions/2"), "second"], 1);
    assert!(text.contains("is damaged") && !text.contains("before it"), "{text}");
    assert!(!lab.path("second").exists());
    // A push is compared with version 1.
    expect(lab.train("other").args(["--set", "seed=8", "--stop-at", "5"]), 75);
    let text = run(&["push", "other", URL], 1);
    assert!(text.contains("version 2 is incomplete") && text.contains("holds the run"), "{text}");
    let text = run(&["push", "run", URL], 0);
    assert!(text.contains("version 2 is incomplete") && text.contains("version 3"), "{text}");

    // Version 4 has half a checkpoint, and version 5 half a manifest.
    break_off(&newest_name(&lab), URL);
    break_off("keepstep.json", URL);
    let text = run(&["pull", URL, "third"], 0);
    assert!(text.contains("version 5: the download is damaged"), "{text}");
    assert!(text.contains("version 4: the download is damaged") && text.contains("differs from"), "{text}");
    assert!(text.contains("Pulled") && text.contains("version 3"), "{text}");
    assert_eq!(hash(&newest(&lab.path("third"))), hash(&there));
    // What someone else pushed meanwhile is not given out as this run.
    run(&["push", "other", URL, "--take-over"], 0);
    break_off_other(&lab, &server, &root);
    let text = run(&["pull", URL, "fourth"], 1);
    assert!(text.contains("the newest version is damaged and belongs to the run"), "{text}");

    // Nothing tells what a dataset holds whose only version is incomplete.
    let second = "kaggle://datasets/ann/second";
    break_off("keepstep.json", second);
    let text = run(&["push", "run", second], 1);
    assert!(text.contains("no version before it tells") && text.contains("--take-over"), "{text}");
    let text = run(&["pull", second, "fourth"], 1);
    assert!(text.contains("no version before it that could be tried; push the run again"), "{text}");
    assert!(!lab.path("fourth").exists());
    run(&["push", "run", second, "--take-over"], 0);
    run(&["pull", second, "fourth"], 0);
}

/// kagglehub may lose a file of an upload without a word, the manifest too.
#[test]
#[ignore = "needs kagglehub: cargo xtask test"]
fn a_version_without_a_manifest_may_be_incomplete() {
    let lab = stopped();
    let server = Server::start(&lab, &[]);
    let root = root(&lab);
    let run = |words: &[&str], status| run_checked(&lab, &mut server.command(words, &root), status);
    let by_hand = |dataset: &str, files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().expect("a folder");
        for (from, name) in files {
            fs::copy(lab.path(from), folder.path().join(name)).expect("a file");
        }
        let script = "import kagglehub, sys; kagglehub.dataset_upload(sys.argv[1], sys.argv[2])";
        let mut upload = Command::new(uploaders_python());
        server.serve(&mut upload);
        expect(upload.args(["-c", script, dataset]).arg(folder.path()), 0);
    };
    let there = newest(&lab.path("run"));
    let half = [("run/best_model.pt", "best_model.pt"), ("run/journal.jsonl", "journal.jsonl")];
    run(&["push", "run", URL], 0);
    by_hand("ann/gpt-run", &half);
    by_hand("ann/gpt-run", &half[1..]);
    // A pull takes the version with a manifest, and says how to get the others.
    let text = run(&["pull", URL, "fresh"], 0);
    for version in [3, 2] {
        let why = format!("version {version}: it has no keepstep.json, which version 1 has");
        assert!(text.contains(&why) && text.contains("its upload may be incomplete"), "{text}");
    }
    assert!(text.contains("version 1,"), "{text}");
    assert_eq!(hash(&newest(&lab.path("fresh"))), hash(&there));
    run(&["pull", &format!("{URL}/versions/2"), "half"], 0);
    assert_eq!(lab.checkpoints("half").len(), 1);
    // A push is compared with it.
    expect(lab.train("other").args(["--set", "seed=8", "--stop-at", "5"]), 75);
    let text = run(&["push", "other", URL], 1);
    assert!(text.contains("version 3 is incomplete (it has no keepstep.json)"), "{text}");
    assert!(text.contains("holds the run"), "{text}");
    let text = run(&["push", "run", URL], 0);
    assert!(text.contains("version 2 is incomplete") && text.contains("version 4"), "{text}");
    // Files of others are never hidden, nor passed over.
    by_hand("ann/gpt-run", &[("corpus.txt", "corpus.txt"), half[0]]);
    let text = run(&["push", "run", URL], 1);
    assert!(text.contains("keepstep did not push"), "{text}");
    let text = run(&["pull", URL, "theirs"], 0);
    assert!(!text.contains("incomplete"), "{text}");
    assert_eq!(lab.checkpoints("theirs").len(), 1);
    // A run that someone has put there by hand has no manifest in any version.
    let hand = "kaggle://datasets/ann/hand";
    by_hand("ann/hand", &half);
    by_hand("ann/hand", &half);
    run(&["pull", hand, "hand"], 0);
    assert_eq!(lab.checkpoints("hand").len(), 1);
    let text = run(&["push", "run", hand], 1);
    assert!(text.contains("no version before it tells") && text.contains("--take-over"), "{text}");
}

/// Makes a version of the first run, whose checkpoint is cut, after a version of another run.
fn break_off_other(lab: &Lab, server: &Server, root: &Path) {
    server.faults(&[&format!("put-{}:cut", newest_name(lab)), "check:500"]);
    run_checked(lab, &mut server.command(&["push", "run", URL, "--take-over"], root), 1);
}

#[test]
fn a_python_without_kagglehub_is_told_what_to_install() {
    let lab = Lab::new();
    expect(lab.train("run").args(["--stop-at", "1"]), 75);
    // It finds no packages at all.
    let python = lab.path("bare");
    fs::write(&python, "#!/bin/sh\nexec python3 -I -S \"$@\"\n").expect("a script");
    expect(Command::new("chmod").arg("+x").arg(&python), 0);
    let mut push = program();
    push.args(["push"]).arg(lab.path("run")).args([URL, "--python"]).arg(&python);
    let text = run_checked(&lab, &mut push, 1);
    assert!(text.contains("has no kagglehub") && text.contains("-m pip install kagglehub"), "{text}");
    let mut push = program();
    push.args(["push"]).arg(lab.path("run")).args([URL, "--python", "/nowhere/python"]);
    assert!(run_checked(&lab, &mut push, 1).contains("give a Python with --python"));
    for url in [
        "kaggle://datasets/ann",
        "kaggle://datasets/ann/gpt/versions/2",
        "kaggle://notebooks/ann/gpt",
        "kaggle:x",
    ] {
        expect(program().arg("push").arg(lab.path("run")).arg(url), 2);
    }
}
