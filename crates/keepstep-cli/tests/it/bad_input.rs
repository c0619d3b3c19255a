//! Every mistake gives one clear sentence and the right exit status, before anything is written.

use crate::support;

use std::fs;
use support::{Lab, damage, expect, newest, said};

/// Trains with a change that must be refused, and gives what was said.
fn refused(lab: &Lab, set: &[&str], status: i32) -> String {
    let mut command = lab.train("run");
    for change in set {
        command.arg("--set").arg(change);
    }
    let output = expect(&mut command, status);
    let said = said(&output);
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.trim_end().lines().count() <= 4, "more than a sentence and its cause:\n{said}");
    said
}

#[test]
fn a_config_that_cannot_be_used() {
    let lab = Lab::new();
    fs::write(lab.path("empty.txt"), "").expect("a file");
    fs::write(lab.path("latin1.txt"), b"caf\xe9 au lait, sans sucre, merci bien").expect("a file");
    let empty = format!("data.paths=[\"{}\"]", lab.path("empty.txt").display());
    let latin1 = format!("data.paths=[\"{}\"]", lab.path("latin1.txt").display());
    let missing = format!("data.paths=[\"{}\"]", lab.path("nowhere.txt").display());
    let nothing = format!("data.paths=[\"{}\"]", lab.path("*.md").display());
    for (set, expected) in [
        ("learning_rte=1", vec!["learning_rte"]),
        ("optimizer.learning_rte=1", vec!["learning_rte", "learning_rate"]),
        ("batch_size=\"many\"", vec!["batch_size"]),
        ("batch_size=0", vec!["batch_size", "0"]),
        ("gradient_accumulation_steps=0", vec!["gradient_accumulation_steps"]),
        ("epochs=-1", vec!["epochs"]),
        ("model.dropout=1.5", vec!["model.dropout", "1.5"]),
        ("model.n_head=3", vec!["n_embd", "n_head"]),
        ("model.block_size=100000", vec!["block_size", "use more text"]),
        ("data.cargo_packages=[\"no-0.0.0\"]", vec!["no-0.0.0", "cargo fetch"]),
        ("optimizer.learning_rate=-1.0", vec!["optimizer.learning_rate"]),
        ("optimizer.betas=[0.9]", vec!["optimizer.betas"]),
        ("data.validation_fraction=1.0", vec!["data.validation_fraction"]),
        ("data.tokenizer=\"words\"", vec!["data.tokenizer"]),
        ("schedule.kind=\"cosin\"", vec!["schedule.kind", "cosine"]),
        (&empty, vec!["empty.txt"]),
        (&latin1, vec!["latin1.txt", "UTF-8"]),
        (&missing, vec!["nowhere.txt"]),
        (&nothing, vec!["*.md"]),
    ] {
        let said = refused(&lab, &[set], 2);
        for word in expected {
            assert!(said.contains(word), "{set}: `{word}` is not in:\n{said}");
        }
        assert!(!lab.path("run").exists(), "{set}: something was written");
    }
}

#[test]
fn a_config_that_is_not_there_or_not_toml() {
    let lab = Lab::new();
    let output = expect(support::program().args(["train", "nowhere.toml"]), 2);
    assert!(said(&output).contains("nowhere.toml"));
    fs::write(lab.path("config.toml"), "output_dir = ").expect("a config");
    let output = expect(&mut lab.train("run"), 2);
    assert!(said(&output).contains("config.toml"), "{}", said(&output));
    expect(support::program().arg("trian"), 2);
}

/// Starts a run, then changes something that the run's function depends on.
fn started() -> Lab {
    let lab = Lab::new();
    expect(lab.train("run").args(["--stop-after", "4"]), 75);
    lab
}

#[test]
fn a_result_key_that_differs_names_both_values_and_the_way_out() {
    let lab = started();
    let before = lab.checkpoints("run");
    for (set, old, new) in
        [("seed=8", "7", "8"), ("batch_size=1", "2", "1"), ("optimizer.learning_rate=0.02", "0.01", "0.02")]
    {
        let said = refused(&lab, &[set], 2);
        let key = set.split('=').next().expect("a key");
        for word in [key, old, new, "keepstep branch"] {
            assert!(said.contains(word), "{set}: `{word}` is not in:\n{said}");
        }
    }
    let said = refused(&lab, &["model.n_embd=64"], 2);
    assert!(said.contains("model.n_embd"), "{said}");
    assert_eq!(lab.checkpoints("run"), before);
}

#[test]
fn a_corpus_that_changed() {
    let lab = started();
    let before = lab.checkpoints("run");
    let mut text = support::text(420);
    text.replace_range(10..11, "#");
    fs::write(lab.path("corpus.txt"), text).expect("the corpus");
    let said = refused(&lab, &[], 2);
    assert!(said.contains("corpus"), "{said}");
    assert_eq!(lab.checkpoints("run"), before);
}

/// A tokenizer.json that is another one than when the run began.
#[test]
fn another_vocabulary() {
    let lab = Lab::new();
    for (run, text) in [("one", support::text(420)), ("other", "zyx wvu ".repeat(60))] {
        fs::write(lab.path("corpus.txt"), text).expect("the corpus");
        expect(lab.train(run).args(["--set", "data.tokenizer=chars", "--stop-after", "1"]), 75);
    }
    fs::write(lab.path("corpus.txt"), support::text(420)).expect("the corpus");
    let tokenizer = format!("data.tokenizer={}", lab.path("tokenizer.json").display());
    fs::copy(lab.path("one/tokenizer.json"), lab.path("tokenizer.json")).expect("a tokenizer");
    expect(lab.train("run").args(["--set", &tokenizer, "--stop-after", "4"]), 75);
    let before = lab.checkpoints("run");
    fs::copy(lab.path("other/tokenizer.json"), lab.path("tokenizer.json")).expect("a tokenizer");
    let said = refused(&lab, &[&tokenizer], 2);
    assert!(said.contains("corpus.txt") && said.contains("vocabulary"), "{said}");
    fs::write(lab.path("tokenizer.json"), "{}").expect("a file");
    let said = refused(&lab, &[&tokenizer], 2);
    assert!(said.contains("tokenizer.json"), "{said}");
    assert_eq!(lab.checkpoints("run"), before);
}

/// The folder of another model: its files belong together.
#[test]
fn a_tokenizer_of_another_model_is_not_replaced() {
    let lab = Lab::new();
    fs::create_dir(lab.path("run")).expect("a folder");
    expect(lab.train("other").args(["--set", "data.tokenizer=chars", "--stop-after", "1"]), 75);
    let (theirs, ours) = (lab.path("other/tokenizer.json"), lab.path("run/tokenizer.json"));
    // Apart from the lock.
    let names = || {
        let names = fs::read_dir(lab.path("run"))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| !name.to_string_lossy().contains("lock")).count()
    };
    for content in [fs::read(&theirs).expect("a tokenizer"), b"{}".to_vec(), Vec::new()] {
        fs::write(&ours, &content).expect("a file");
        let said = refused(&lab, &[], 2);
        assert!(said.contains("run/tokenizer.json") && said.contains("output_dir"), "{said}");
        expect(lab.train("run").arg("--dry-run"), 2);
        assert!(fs::read(&ours).expect("the file") == content && names() == 1);
    }
    // A model that is trained further in its own folder, whose tokenizer holds the state of a call.
    let mut json: serde_json::Value =
        serde_json::from_slice(&fs::read(&theirs).expect("a tokenizer")).expect("JSON");
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
    });
    fs::write(&ours, json.to_string()).expect("a file");
    let tokenizer = format!("data.tokenizer={}", ours.display());
    let output = expect(lab.train("run").args(["--set", &tokenizer, "--stop-after", "1"]), 75);
    assert!(said(&output).contains("`truncation`"), "{}", said(&output));
    assert_eq!(fs::read_to_string(&ours).expect("the file"), json.to_string());
    // The run is the one that it is with the file as it was made.
    assert_eq!(lab.checkpoints("run"), {
        let tokenizer = format!("data.tokenizer={}", theirs.display());
        expect(lab.train("clean").args(["--set", &tokenizer, "--stop-after", "1"]), 75);
        lab.checkpoints("clean")
    });
}

#[test]
fn a_link_to_nothing_in_the_corpus() {
    let lab = Lab::new();
    std::os::unix::fs::symlink("/nowhere", lab.path("gone.txt")).expect("a link");
    let paths = format!("data.paths=[\"{}\"]", lab.path("*.txt").display());
    let said = refused(&lab, &[&paths], 2);
    assert!(said.contains("gone.txt") && said.contains("data.skip_unreadable"), "{said}");
    assert!(!lab.path("run").exists());
    let mut allowed = lab.train("run");
    allowed.args(["--set", &paths, "--set", "data.skip_unreadable=true", "--stop-after", "1"]);
    let output = expect(&mut allowed, 75);
    assert!(support::said(&output).contains("gone.txt"), "{}", support::said(&output));
}

#[test]
fn nothing_but_damaged_files() {
    let lab = started();
    for name in lab.checkpoints("run").keys() {
        damage(&lab.path("run").join(name));
    }
    let before = lab.checkpoints("run");
    let output = expect(&mut lab.train("run"), 1);
    assert!(said(&output).contains("damaged"), "{}", said(&output));
    assert_eq!(lab.checkpoints("run"), before);
}

#[test]
fn a_source_that_is_missing() {
    let lab = Lab::new();
    let output = expect(lab.train("run").args(["--resume", "/nowhere/checkpoint.pt"]), 1);
    assert!(said(&output).contains("/nowhere/checkpoint.pt"), "{}", said(&output));
    assert!(!newest_exists(&lab));
}

fn newest_exists(lab: &Lab) -> bool {
    lab.path("run").exists() && !lab.checkpoints("run").is_empty()
}

#[test]
fn never_resuming_into_a_folder_that_has_a_run() {
    let lab = started();
    let before = lab.checkpoints("run");
    let output = expect(lab.train("run").args(["--resume", "never"]), 1);
    assert!(said(&output).contains(&lab.path("run").display().to_string()), "{}", said(&output));
    assert_eq!(lab.checkpoints("run"), before);
}

#[test]
fn two_writers() {
    let lab = Lab::new();
    let slow = ["--set", "epochs=2000", "--set", "save_steps=1000000", "--set", "eval_steps=1000000"];
    let mut first = support::start(lab.train("run").args(slow).stderr(std::process::Stdio::null()));
    let lock_is_held = || {
        let output = lab.train("run").args(slow).args(["--stop-after", "1"]).output().expect("the second");
        output.status.code() == Some(1) && said(&output).contains("another")
    };
    // Once its journal begins, the first has the lock.
    let journal = lab.path("run/journal.jsonl");
    let began = std::time::Instant::now();
    while !journal.exists() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "the first does not begin");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let is_refused = lock_is_held();
    first.kill().expect("it runs");
    first.wait().expect("it ends");
    assert!(is_refused, "the second writer was not refused");
}

#[test]
fn a_loss_that_is_not_finite() {
    let lab = Lab::new();
    let output = expect(
        lab.train("run").args(["--set", "optimizer.learning_rate=1e30", "--set", "schedule.warmup_steps=0"]),
        1,
    );
    let said = said(&output);
    assert!(said.contains("not finite") && said.contains("epoch"), "{said}");
    for name in lab.checkpoints("run").keys() {
        let file = keepstep_pt::File::open(lab.path("run").join(name)).expect("a checkpoint");
        file.verify().expect("it holds");
    }
}

#[test]
fn a_file_that_is_no_checkpoint() {
    let lab = Lab::new();
    for (name, bytes) in [("empty.pt", &b""[..]), ("text.pt", &b"this is not a checkpoint"[..])] {
        fs::write(lab.path(name), bytes).expect("a file");
        for command in ["inspect", "verify"] {
            let output = expect(support::program().arg(command).arg(lab.path(name)), 1);
            assert!(said(&output).contains(name), "{}", said(&output));
        }
    }
    let started = started();
    let victim = newest(&started.path("run"));
    damage(&victim);
    for command in ["inspect", "verify"] {
        let output = expect(support::program().arg(command).arg(&victim), 1);
        assert!(!said(&output).is_empty());
    }
}

/// A small tmpfs, of sizes around what two checkpoints need: what is there stays whole, and the message names the file
/// and the cause.
#[test]
fn a_full_disk() {
    let lab = Lab::new();
    expect(&mut lab.train("straight"), 0);
    let size = fs::metadata(newest(&lab.path("straight"))).expect("a checkpoint").len();
    let mount = lab.path("mount");
    fs::create_dir(&mount).expect("a folder");
    let (mut failures, mut warnings) = (0, 0);
    for kibibytes in
        [4, 64, size / 1024 - 4, size / 1024 + 60, 3 * size / 1024, 4 * size / 1024, 5 * size / 1024]
    {
        let script = format!(
            "mount -t tmpfs -o size={kibibytes}k tmpfs {mount} || exit 99
             \"$@\"; status=$?
             if ls {mount}/run/*.pt > /dev/null 2>&1; then {keepstep} verify {mount}/run || exit 98; fi
             rm -rf {mount}/*
             exit $status",
            mount = mount.display(),
            keepstep = support::program().get_program().display(),
        );
        let mut train = lab.train("run");
        train.args(["--set", &format!("output_dir={}/run", mount.display())]);
        let output = support::mounting(&script, &train).output().expect("unshare starts");
        let said = said(&output);
        match output.status.code() {
            Some(0) => {}
            Some(1) => {
                failures += 1;
                warnings += u32::from(
                    said.contains("DISK MAY BE TOO SMALL")
                        && said.contains("missing (make room, lower max_checkpoints"),
                );
                assert!(said.contains("No space left on device") && said.contains("/run"), "{said}");
                assert!(!said.contains("panicked"), "{said}");
                let says_how_much = said.contains(" MB are free: ") && said.contains(" MB are missing");
                assert!(kibibytes < size / 1024 || says_how_much || said.contains("tokenizer"), "{said}");
            }
            status => panic!("{status:?} with {kibibytes} KiB:\n{said}"),
        }
    }
    assert!(failures >= 3, "the disk was full {failures} times only");
    assert!(warnings >= 2, "it was said beforehand {warnings} times only");
}
