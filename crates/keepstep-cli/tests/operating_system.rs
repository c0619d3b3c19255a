//! What the operating system does to the program: signals, limits, and file systems that lack something.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Lab, expect, said};

/// The command, run by a shell after `before`.
fn in_shell(before: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{before}; exec \"$@\""), "sh"]).arg(command.get_program());
    shell.args(command.get_args());
    shell
}

/// The command, with a library before libc's that makes system calls fail; `shim.c` lists its variables.
fn with_shim(lab: &Lab, command: &mut Command, variables: &[(&str, &str)]) {
    let library = lab.path("shim.so");
    if !library.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/shim.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        expect(&mut cc, 0);
    }
    command.env("LD_PRELOAD", library).envs(variables.iter().copied());
}

fn kill(signal: &str, id: u32) {
    assert!(Command::new("kill").args([signal, &id.to_string()]).status().expect("kill").success());
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Batch systems warn with SIGUSR2 or SIGXCPU, some of them every second until the job ends.
#[test]
fn what_batch_systems_send_stops_with_a_checkpoint() {
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(60_000)).expect("the corpus");
    let long = ["--set", "epochs=100000", "--set", "save_steps=1000000", "--set", "eval_steps=1000000"];
    for (signal, name) in [("-USR2", "SIGUSR2"), ("-XCPU", "SIGXCPU")] {
        let mut train = lab.train(name);
        train.args(long).stdout(Stdio::null()).stderr(Stdio::piped());
        with_shim(&lab, &mut train, &[("SHIM_FSYNC_MILLIS", "600")]);
        let child = train.spawn().expect("it starts");
        let journal = lab.path(name).join("journal.jsonl");
        wait_until("an update", || text(&journal).contains(r#""event":"update""#));
        kill(signal, child.id());
        std::thread::sleep(Duration::from_millis(400));
        kill(signal, child.id());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(75), "{}: {}", output.status, said(&output));
        assert!(said(&output).contains(&format!("Stopped by {name} at global step")), "{}", said(&output));
        assert!(text(&journal).contains(&format!(r#""reason":"{name}""#)), "{}", text(&journal));
        assert_eq!(lab.checkpoints(name).len(), 1);
    }
}

/// The second signal comes while the checkpoint of the first one is being written: the program ends at once, what was
/// saved before stays, and the next session begins there.
#[test]
fn a_second_signal_while_saving_loses_only_that_save() {
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(60_000)).expect("the corpus");
    let long = ["--set", "epochs=1", "--set", "save_steps=20", "--set", "eval_steps=1000000"];
    expect(lab.train("run").args(long).args(["--stop-at", "20"]), 75);
    let before = lab.checkpoints("run");
    assert_eq!(before.len(), 1);

    let mut train = lab.train("run");
    train.args(long).args(["--stop-at", "30"]).stdout(Stdio::null()).stderr(Stdio::null());
    with_shim(&lab, &mut train, &[("SHIM_FSYNC_MILLIS", "60000")]);
    let mut child = train.spawn().expect("it starts");
    let is_saving = || {
        let names = std::fs::read_dir(lab.path("run")).expect("the run's folder");
        names
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .any(|name| name.ends_with(".pt.tmp"))
    };
    wait_until("the last save", is_saving);
    kill("-TERM", child.id());
    std::thread::sleep(Duration::from_millis(400));
    let began = Instant::now();
    kill("-TERM", child.id());
    let status = child.wait().expect("it ends");
    assert_eq!(status.signal(), Some(15), "{status}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(is_saving(), "the save was interrupted");
    assert_eq!(lab.checkpoints("run"), before, "what was saved stays");

    let output = expect(lab.train("run").args(long), 0);
    assert!(said(&output).contains("Global step: 20"), "{}", said(&output));
    assert!(!is_saving(), "the half-written file is gone");
    expect(lab.train("straight").args(long), 0);
    assert_eq!(lab.checkpoints("run"), lab.checkpoints("straight"));
}

/// `ulimit -f`: the signal SIGXFSZ used to end the program without a word.
#[test]
fn a_limit_on_the_size_of_files_is_an_error_like_others() {
    let lab = Lab::new();
    let run = lab.path("run");
    // 64 KiB; a checkpoint has more.
    let output = expect(&mut in_shell("ulimit -f 128", &lab.train("run")), 1);
    assert!(said(&output).contains("ulimit -f") && said(&output).contains("0.1 MB"), "{}", said(&output));
    assert!(!run.exists(), "nothing was written");
    let output = expect(&mut in_shell("ulimit -f 128", lab.train("run").arg("--dry-run")), 1);
    assert!(said(&output).contains("ulimit -f"), "{}", said(&output));

    expect(&mut lab.train("run"), 0);
    let mut export = support::program();
    export.arg("export").arg(support::newest(&run)).args(["--format", "hf", "--out"]).arg(lab.path("hf"));
    let output = expect(&mut in_shell("ulimit -f 128", &export), 1);
    assert!(
        said(&output).contains("model.safetensors") && said(&output).contains("os error 27"),
        "{}",
        said(&output)
    );
    assert_eq!(std::fs::read_dir(lab.path("hf")).expect("a folder").count(), 0, "nothing half-written stays");
}
