//! `push`, `pull`, URLs in place of paths, and what is refused.

use super::places::{Kind, Place};
use crate::support::{self, Lab, expect, said};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn ask(arguments: &[&str]) -> Command {
    let mut command = support::program();
    command.args(arguments);
    command
}

#[test]
fn push_and_pull_bring_the_same_bytes() {
    let (place, lab) = (Place::start(Kind::Folder), Lab::new());
    let straight = lab.straight("run");
    let (run, url, copy) =
        (lab.path("run").display().to_string(), place.url("x"), lab.path("copy").display().to_string());
    let output = expect(&mut ask(&["push", &run, &url, "--json"]), 0);
    let pushed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(
        pushed["bytes"].as_u64() > Some(100_000)
            && pushed["files"].as_array().is_some_and(|files| files.len() > 5),
        "{pushed}"
    );
    let output = expect(&mut ask(&["push", &run, &url]), 0);
    assert!(said(&output).contains("Everything is there already"), "{}", said(&output));
    expect(&mut ask(&["pull", &url, &copy]), 0);
    assert_eq!(lab.checkpoints("copy"), straight);
    let journal = |run: &str| std::fs::read(lab.path(run).join("journal.jsonl")).expect("a journal");
    assert_eq!(journal("copy"), journal("run"));
    let output = expect(&mut ask(&["pull", &url, &copy]), 0);
    assert!(said(&output).contains("Everything is here already"), "{}", said(&output));
    let output = expect(lab.train("empty").args(["--dry-run", "--set", &format!("remote={url}")]), 0);
    let planned = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(planned.contains("at global step 12: a session would fetch it"), "{planned}");
    // The best alone.
    let best = place.url("best");
    expect(&mut ask(&["push", &run, &best, "--best"]), 0);
    let output = expect(&mut ask(&["list", &best, "--json"]), 0);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    let output = expect(lab.train("again").args(["--resume", &url, "--stop-after", "1"]), 0);
    assert!(said(&output).contains("Fetched checkpoint_epoch3_final_global12.pt"), "{}", said(&output));
    // Back to an earlier checkpoint there, and on to the same end.
    let earlier = format!("{url}/checkpoint_epoch2_step6_global6.pt");
    expect(lab.train("rewound").args(["--resume", &earlier, "--rewind"]), 0);
    let rewound = lab.checkpoints("rewound");
    assert!(
        rewound.iter().all(|(name, hash)| straight.get(name).is_none_or(|other| other == hash)),
        "{rewound:?}"
    );
    assert!(rewound.contains_key("checkpoint_epoch3_final_global12.pt"));
}

/// A notebook's inputs are read-only.
#[test]
fn a_run_in_a_read_only_folder_is_pushed() {
    let (place, lab) = (Place::start(Kind::Folder), Lab::new());
    let inputs = lab.path("inputs");
    std::fs::create_dir(&inputs).expect("a folder");
    expect(lab.train("inputs/run").args(["--stop-after", "7"]), 75);
    let run = inputs.join("run").display().to_string();
    let (url, best) = (place.url("x"), place.url("best"));
    for words in
        [&["push", &run, &url][..], &["push", &run, &best, "--best"], &["verify", &run], &["list", &run]]
    {
        expect(&mut support::read_only(&inputs, &ask(words)), 0);
    }
    expect(&mut ask(&["pull", &url, &lab.path("pulled").display().to_string()]), 0);
    assert_eq!(lab.checkpoints("pulled"), lab.checkpoints("inputs/run"));
    expect(&mut lab.train("pulled"), 0);
    let straight = lab.straight("straight");
    let newest = "checkpoint_epoch3_final_global12.pt";
    assert_eq!(lab.checkpoints("pulled")[newest], straight[newest]);
    // To train there is refused, in a sentence.
    let train = lab.train("inputs/run");
    let output = expect(&mut support::read_only(&inputs, &train), 1);
    let said = said(&output);
    assert!(said.contains("Read-only file system") && said.contains(&run), "{said}");
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() {
    let (place, lab) = (Place::start(Kind::Folder), Lab::new());
    expect(lab.train("run").args(["--stop-after", "2"]), 75);
    let (run, url) = (lab.path("run").display().to_string(), place.url("x"));
    expect(&mut ask(&["push", &run, &url]), 0);
    let refused = |command: &mut Command, status: i32, words: &str| {
        let output = expect(command.env_remove("AWS_ACCESS_KEY_ID").env("HOME", lab.path("home")), status);
        let said = said(&output);
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with("keepstep: ") && last.contains(words), "{said}");
    };
    refused(&mut ask(&["push", &run, "ftp://x"]), 2, "no place to push to");
    refused(&mut ask(&["pull", &place.url("nothing"), &run]), 1, "there is no run here");
    refused(&mut ask(&["list", "file:///nowhere/at/all"]), 2, "is it mounted?");
    refused(&mut ask(&["list", "s3://key:SECRET@bucket/x"]), 2, "credentials come from the environment");
    refused(&mut ask(&["list", "s3://bucket/x"]), 2, "there are no credentials");
    refused(
        lab.train("other").args(["--set", "seed=8", "--set", &format!("remote={url}"), "--resume", "never"]),
        2,
        "it holds another run",
    );
    refused(
        lab.train("new").args(["--set", &format!("remote={url}"), "--resume", "never"]),
        2,
        "there are checkpoints of it already",
    );
    assert!(!lab.path("other/journal.jsonl").exists() && !lab.path("new/journal.jsonl").exists());
    // Of another run nothing stays.
    refused(
        lab.train("other").args(["--set", "seed=8", "--set", &format!("remote={url}")]),
        2,
        "`seed` is 7",
    );
    assert!(lab.checkpoints("other").is_empty());
}

#[test]
fn a_session_that_is_taken_over_stops_and_says_by_whom() {
    let (place, lab) = (Place::start(Kind::Folder), Lab::new());
    let url = place.url("x");
    let long = [
        "--set",
        "epochs=100000",
        "--set",
        "save_steps=20",
        "--set",
        "eval_steps=100000",
        "--set",
        "max_checkpoints=2",
    ];
    let mut train = lab.train("run");
    train.args(long).args(["--set", &format!("remote={url}")]).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = support::start(&mut train);
    let run = lab.path("run");
    let journal = || std::fs::read_to_string(run.join("journal.jsonl")).unwrap_or_default();
    let began = Instant::now();
    while !journal().contains("\"event\":\"push\"") {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing is pushed");
        std::thread::sleep(Duration::from_millis(10));
    }
    let other = lab.path("other");
    expect(&mut ask(&["pull", &url, &other.display().to_string()]), 0);
    let output = expect(&mut ask(&["push", &other.display().to_string(), &url]), 1);
    assert!(
        said(&output).contains("has been the writer there since") && said(&output).contains("--take-over"),
        "{}",
        said(&output)
    );
    expect(&mut ask(&["push", &other.display().to_string(), &url, "--take-over"]), 0);
    let output = child.output();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("has been the writer there since"), "{}", said(&output));
    let newest = keepstep::store::load(&support::newest(&run)).expect("a local checkpoint");
    assert!(newest.position.global_step > 0);
    expect(&mut ask(&["verify", &url]), 0);
}

/// A session that could not push to its end, or was killed, writes no more: nothing needs to be taken over.
#[test]
fn a_session_that_ended_unpushed_is_not_in_the_way() {
    let (place, lab) = (Place::start(Kind::Folder), Lab::new());
    let (url, run) = (place.url("x"), lab.path("run").display().to_string());
    let folder = std::path::PathBuf::from(url.trim_start_matches("file://"));
    let away = lab.path("away");
    let manifest = || {
        let text = std::fs::read_to_string(folder.join("run.json")).expect("a manifest");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    let long = ["--set", "epochs=100000", "--set", "save_steps=20", "--set", "eval_steps=100000"];
    for signal in ["-TERM", "-KILL"] {
        let mut train = lab.train("run");
        train
            .args(long)
            .args(["--set", &format!("remote={url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let before = std::fs::read_to_string(lab.path("run/journal.jsonl")).unwrap_or_default().len();
        let child = support::start(&mut train);
        let pushes = || {
            let journal = std::fs::read_to_string(lab.path("run/journal.jsonl")).unwrap_or_default();
            journal.get(before..).unwrap_or_default().contains("\"event\":\"push\"")
        };
        while !pushes() {
            std::thread::sleep(Duration::from_millis(5));
        }
        // The place is gone: a file is where its folder was.
        std::fs::rename(&folder, &away).expect("it goes");
        std::fs::write(&folder, "no folder").expect("a file");
        let refused = || {
            std::fs::remove_file(&folder).expect("no file");
            std::fs::rename(&away, &folder).expect("it comes back");
        };
        expect(Command::new("kill").args([signal, &child.id().to_string()]), 0);
        let output = child.output();
        assert_eq!(output.status.code(), (signal == "-TERM").then_some(75), "{}", said(&output));
        refused();
        let writer = manifest()["writer"].clone();
        assert_eq!(writer["closed"], false, "{writer}");
        let status = std::fs::read_to_string(lab.path("run/status.json")).expect("a status");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let ended = &status["remote"]["ended_session"];
        assert!(if signal == "-TERM" { *ended == writer["session"] } else { ended.is_null() }, "{status}");
        expect(&mut ask(&["push", &run, &url]), 0);
        assert_eq!(manifest()["writer"]["closed"], true);
        expect(&mut ask(&["verify", &url]), 0);
    }
    // On another machine only the folder tells, and only of its own session.
    let path = folder.join("run.json");
    let claim = |session: &str| {
        let mut text = manifest();
        text["writer"]["closed"] = false.into();
        text["writer"]["host"] = "another".into();
        text["writer"]["session"] = session.into();
        let manifest: keepstep_remote::Manifest = serde_json::from_value(text).expect("a manifest");
        std::fs::write(&path, manifest.to_bytes()).expect("it is written");
    };
    let record = |session: Option<&str>| {
        let path = lab.path("run/status.json");
        let mut status: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&path).expect("a status")).expect("JSON");
        status["remote"]["ended_session"] = session.into();
        std::fs::write(&path, status.to_string()).expect("it is written");
    };
    for (recorded, status) in [(None, 1), (Some("b"), 1), (Some("a"), 0)] {
        claim("a");
        record(recorded);
        let output = expect(&mut ask(&["push", &run, &url]), status);
        assert_eq!(said(&output).contains("--take-over"), status == 1, "{}", said(&output));
    }
}

#[test]
fn what_is_damaged_or_lost_there_is_reported() {
    let (place, lab) = (Place::start(Kind::Folder), Lab::new());
    let url = place.url("x");
    expect(lab.train("run").args(["--set", &format!("remote={url}")]), 0);
    let whole = expect(&mut ask(&["verify", &url]), 0);
    let count = String::from_utf8_lossy(&whole.stdout).lines().count();
    let folder = std::path::PathBuf::from(url.trim_start_matches("file://"));
    let object = |start: &str| {
        let mut entries = std::fs::read_dir(&folder).expect("the place").flatten();
        let found = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(start));
        found.unwrap_or_else(|| panic!("no object {start}")).path()
    };
    support::damage(&object("checkpoint_epoch2_step6_global6"));
    std::fs::remove_file(object("checkpoint_epoch3_step6_global10")).expect("an object to lose");
    std::fs::remove_file(object("journal")).expect("a segment to lose");
    let output = expect(&mut ask(&["verify", &url]), 1);
    let (table, said) = (String::from_utf8_lossy(&output.stdout).into_owned(), said(&output));
    assert_eq!(table.lines().count(), count, "{table}");
    for name in ["checkpoint_epoch2_step6_global6.pt", "checkpoint_epoch3_step6_global10.pt", "journal.jsonl"]
    {
        assert!(table.contains(&format!("{name}: DAMAGED")), "{table}");
    }
    assert!(said.contains(&format!("3 of {count} files are damaged or missing")), "{said}");
    let listed = expect(&mut ask(&["list", &url]), 0).stdout;
    let listed = String::from_utf8_lossy(&listed);
    let line = listed.lines().find(|line| line.contains("step6_global10")).expect("its line");
    assert!(line.contains("DAMAGED"), "{listed}");
    // A session takes the newest one that is whole, and reports the others.
    std::fs::remove_file(object("checkpoint_epoch3_final_global12")).expect("an object to lose");
    let output = expect(lab.train("fresh").args(["--resume", &url]), 0);
    let said = support::said(&output);
    assert!(said.contains("checkpoint_epoch3_final_global12.pt cannot be used"), "{said}");
    assert_eq!(
        lab.checkpoints("fresh")["checkpoint_epoch3_final_global12.pt"],
        lab.checkpoints("run")["checkpoint_epoch3_final_global12.pt"]
    );
}

/// Tensors that are larger than what is fetched to look at a file.
#[test]
fn a_model_is_used_where_it_is() {
    let (place, lab) = (Place::start(Kind::Folder), Lab::new());
    let (run, url) = (lab.path("run"), place.url("x"));
    let wide = ["--set", "model.n_embd=96", "--set", "epochs=1", "--set", "save_steps=100"];
    expect(lab.train("run").args(wide).args(["--set", &format!("remote={url}")]), 0);
    let local = support::newest(&run);
    let there = format!("{url}/{}", local.file_name().and_then(|name| name.to_str()).expect("a name"));
    let local = local.display().to_string();
    let generate = |from: &str| ask(&["generate", from, "--prompt", "the run", "--max-new-tokens", "20"]);
    let texts = [&*there, &local].map(|from| expect(&mut generate(from), 0).stdout);
    assert!(texts[0] == texts[1] && texts[0].len() > 20);
    let export = |from: &str, to: &str| {
        expect(
            &mut ask(&[
                "export",
                from,
                "--format",
                "safetensors",
                "--out",
                &lab.path(to).display().to_string(),
            ]),
            0,
        );
        std::fs::read(lab.path(to).join("model.safetensors")).expect("its weights")
    };
    assert!(export(&there, "one") == export(&local, "other"));
    // A bit of the model is damaged there.
    let object = std::fs::read_dir(url.trim_start_matches("file://")).expect("the place").flatten();
    let is_newest = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint_epoch1_final"))
    };
    let path = object.map(|entry| entry.path()).find(is_newest).expect("its object");
    let mut bytes = std::fs::read(&path).expect("a file");
    let at = bytes.len() / 6;
    bytes[at] ^= 4;
    std::fs::write(&path, bytes).expect("damage");
    for mut command in [
        generate(&there),
        ask(&["export", &there, "--format", "hf", "--out", &lab.path("bad").display().to_string()]),
    ] {
        let output = expect(&mut command, 1);
        assert!(said(&output).contains("the checksum of its entry"), "{}", said(&output));
    }
    assert!(!lab.path("bad").exists());
    expect(&mut ask(&["inspect", &there]), 0);
    let output = expect(&mut ask(&["verify", &there]), 1);
    assert!(said(&output).contains("1 of 1 files are damaged"), "{}", said(&output));
    let output = expect(&mut ask(&["verify", &format!("{url}/checkpoint_epoch9_final_global99.pt")]), 1);
    assert!(said(&output).contains("there is no checkpoint_epoch9_final_global99.pt"), "{}", said(&output));
}

#[test]
fn a_damaged_manifest_is_found_around() {
    let (place, lab) = (Place::start(Kind::Folder), Lab::new());
    let straight = lab.straight("straight");
    let url = place.url("x");
    let remote = format!("remote={url}");
    expect(lab.train("run").args(["--set", &remote, "--stop-after", "7"]), 75);
    let path = url.trim_start_matches("file://").to_owned() + "/run.json";
    support::damage(std::path::Path::new(&path));
    let output = expect(&mut ask(&["list", &url]), 0);
    assert!(said(&output).contains("run.json is damaged"), "{}", said(&output));
    let output = expect(lab.train("fresh").args(["--set", &remote, "--set", "remote.max_lag=0"]), 0);
    assert!(said(&output).contains("Fetched checkpoint_epoch2_step9_global7.pt"), "{}", said(&output));
    expect(&mut ask(&["pull", &url, &lab.path("pulled").display().to_string()]), 0);
    let pulled = lab.checkpoints("pulled");
    assert!(
        pulled.iter().all(|(name, hash)| straight.get(name).is_none_or(|other| other == hash)),
        "{pulled:?}"
    );
    assert!(pulled.contains_key("checkpoint_epoch3_final_global12.pt"), "{pulled:?}");
    assert_eq!(pulled.get("best_model.pt"), straight.get("best_model.pt"));
}
