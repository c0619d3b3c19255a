//! What the program prints about a run's sessions, and `keepstep prove`.

use crate::support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
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
    for text in ["0 → 3", "3 → 7", "as asked", "finished", "checkpoint_epoch1_step9_global3.pt"] {
        assert!(table.contains(text), "{text}:\n{table}");
    }
    let list: serde_json::Value = serde_json::from_str(&history(true)).expect("JSON");
    let updates: Vec<_> =
        list.as_array().expect("a list").iter().map(|session| session["updates"].as_u64()).collect();
    assert_eq!(updates, [Some(3), Some(4), Some(5)]);
    assert_eq!(list[1]["from"]["global_step"], 3);
    assert!(list[1]["host"].as_str().is_some_and(|host| !host.is_empty()));
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
    assert_eq!(
        verdict.lines().filter(|line| line.contains(" s ")).count(),
        6,
        "a line for each kill: {verdict}"
    );
    assert!(!lab.path("run").exists());
    // Nothing can be proved of a run that ends at its first save.
    let mut short = support::program();
    short.arg("prove").arg(lab.path("config.toml")).args(["--kills", "2", "--set", "total_steps=1"]);
    let output = expect(&mut short, 1);
    assert!(said(&output).contains("too short"), "{}", said(&output));
    let mut missing = support::program();
    missing.arg("prove").arg(lab.path("config.toml")).args(["--set", "data.paths=[\"/nowhere.txt\"]"]);
    let output = expect(&mut missing, 2);
    assert!(said(&output).contains("/nowhere.txt"), "{}", said(&output));
    let output = expect(support::program().arg("prove").arg(lab.path("script.py")), 2);
    assert!(said(&output).contains("pip install keepstep"), "{}", said(&output));
}

/// SIGTERM: a checkpoint, status 75, and the same end. SIGUSR1: a checkpoint, and on it goes.
#[test]
fn signals_save() {
    let lab = Lab::new();
    // Long epochs: nothing is saved except on request.
    std::fs::write(lab.path("corpus.txt"), support::text(60_000)).expect("the corpus");
    let long = ["--set", "epochs=2", "--set", "save_steps=1000000", "--set", "eval_steps=1000000"];
    let straight = {
        expect(lab.train("straight").args(long), 0);
        lab.checkpoints("straight")
    };
    let child = support::start(lab.train("run").args(long).stdout(Stdio::null()).stderr(Stdio::piped()));
    let id = child.id().to_string();
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &id]).status().expect("kill");
        assert!(status.success());
    };
    let journal = lab.path("run/journal.jsonl");
    wait_for(&journal, r#""global_step":5,"#);
    signal("-USR1");
    wait_for(&journal, r#""event":"save""#);
    signal("-TERM");
    let output = child.output();
    assert_eq!(output.status.code(), Some(75));
    assert!(said(&output).contains("nothing is lost. To go on: keepstep train "), "{}", said(&output));
    expect(lab.train("run").args(long), 0);
    assert_eq!(lab.checkpoints("run"), straight);
}

/// The limit is kept, and the run ends as if nothing had been.
#[test]
fn a_session_ends_within_its_time() {
    let lab = Lab::new();
    let long = ["--set", "epochs=100000", "--set", "save_steps=1000000", "--set", "eval_steps=1000000"];
    // A busy machine may keep the program waiting, so it has three tries.
    let session = || {
        let began = Instant::now();
        let output = expect(lab.train("run").args(long).args(["--time-limit", "3s"]), 75);
        assert!(said(&output).contains("Saved"), "{}", said(&output));
        began.elapsed() < Duration::from_secs(3)
    };
    assert!((0..3).any(|_| session()), "no session ended within its time");
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
    let plan = events.iter().position(|event| *event == "plan").expect("a plan");
    assert!(
        events[..plan]
            .iter()
            .all(|event| matches!(*event, "listing" | "reading" | "training_tokenizer" | "tokenizing")),
        "{events:?}"
    );
    assert_eq!(events[plan + 1], "resumed");
    assert_eq!(events.iter().filter(|event| **event == "update").count(), 5);
    assert_eq!(events.last(), Some(&"finished"));
    assert_eq!(lines[plan + 1]["global_step"], 7);
    assert_eq!(lab.checkpoints("run"), lab.straight("straight"));
}

/// SIGTERM while text is being tokenized, before there is anything to save: it ends at once, and so does the next start.
#[test]
fn a_stop_while_tokenizing() {
    let lab = Lab::new();
    // Words that are all different take their time.
    let words: String =
        (0..2_000_000_u64).map(|word| format!("{:x} ", word.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    std::fs::write(lab.path("corpus.txt"), words).expect("the corpus");
    let set = ["--set", "data.tokenizer={ bpe = 2000 }"];
    let mut train = lab.train("run");
    train.args(set).arg("--json-progress").stderr(Stdio::null()).stdout(Stdio::piped());
    let mut child = support::start(&mut train);
    // Once it has read the text to recognize it, it counts words, trains the tokenizer, and tokenizes.
    let mut progress = BufReader::new(child.stdout.take().expect("its progress")).lines();
    assert!(progress.any(|line| line.is_ok_and(|line| line.contains("reading"))));
    let began = Instant::now();
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(75), "after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(!lab.path("run").exists());
}

/// Ctrl-C, typed at a terminal, ends a shell's loop: the run saves, and the shell receives the signal too.
#[test]
fn ctrl_c_ends_a_shell_loop() {
    const TYPE: &str = r#"
import os, pty, select, signal, sys, time
child, terminal = pty.fork()
if child == 0:
    # As at a terminal, even where the tests are run in the background of a script.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
said, typed, end = b"", False, time.monotonic() + 60
while True:
    if time.monotonic() > end:
        os.kill(child, signal.SIGKILL)
        break
    ready, _, _ = select.select([terminal], [], [], 30)
    try:
        part = os.read(terminal, 4096) if ready else b""
    except OSError:
        break
    if not part:
        break
    said += part
    if not typed and b"global_step=" in said:
        os.write(terminal, b"\x03")
        typed = True
sys.stdout.write(said.decode(errors="replace"))
_, status = os.waitpid(child, 0)
sys.exit(99 if os.WIFSIGNALED(status) and os.WTERMSIG(status) == 2 else os.waitstatus_to_exitcode(status) & 0xff)
"#;
    let lab = Lab::new();
    let train = lab.train("run");
    let words: Vec<_> = std::iter::once(train.get_program()).chain(train.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let one = format!("{} --set epochs=100000 --set save_steps=1000000", words.join(" "));
    let script = format!("while {one}; [ $? -eq 75 ]; do echo AGAIN; done; echo AFTER");
    let mut python = Command::new("python3");
    python.args(["-c", TYPE, &script]).env("TERM", "xterm").env_remove("JPY_PARENT_PID");
    let output = python.output().expect("python3");
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(screen.contains("Stopped by Ctrl-C") && screen.contains("nothing is lost"), "{screen}");
    assert!(!screen.contains("AGAIN") && !screen.contains("AFTER"), "the loop went on:\n{screen}");
    assert_eq!(output.status.code(), Some(99), "the shell ends by the signal too");
    assert!(support::global_step(&support::newest(&lab.path("run")).display().to_string()) > Some(0));
}

/// The command, which hears SIGHUP even where the tests are run under `nohup`.
fn hearing(command: &Command) -> Command {
    let mut hearing = Command::new("env");
    hearing.arg("--default-signal=HUP").arg(command.get_program()).args(command.get_args());
    hearing
}

fn kill(signal: &str, id: u32) {
    assert!(Command::new("kill").args([signal, &id.to_string()]).status().expect("kill").success());
}

/// Waits as long as a busy machine may take.
fn wait_for(path: &std::path::Path, what: &str) {
    let began = Instant::now();
    while !std::fs::read_to_string(path).unwrap_or_default().contains(what) {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An update that takes for ever does not hear the first signal; the second ends it, and what was saved is there. Two that
/// come at once, as `timeout` sends them, are one.
#[test]
fn a_second_signal_ends_it_at_once() {
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(2_000_000)).expect("the corpus");
    let slow =
        ["--set", "gradient_accumulation_steps=1000000", "--set", "epochs=10", "--set", "save_steps=1"];
    let start = |run: &str, set: &[&str]| {
        let mut train = lab.train(run);
        train.args(set).args(["--set", "eval_batches=1", "--set", "model.n_embd=64"]);
        support::start(train.stdout(Stdio::null()).stderr(Stdio::null()))
    };
    let mut child = start("run", &slow);
    wait_for(&lab.path("run/journal.jsonl"), r#""event":"start""#);
    // Now the update begins, and takes some seconds.
    std::thread::sleep(Duration::from_millis(600));
    kill("-TERM", child.id());
    std::thread::sleep(Duration::from_millis(400));
    let began = std::time::Instant::now();
    kill("-TERM", child.id());
    let status = child.wait().expect("it ends");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15), "{status}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    let mut child = start("quick", &[]);
    wait_for(&lab.path("quick/journal.jsonl"), r#""event":"update""#);
    // One command: two could be further apart than signals that count as one.
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id, &id]).status().expect("kill").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(75));
}

/// A stop in the middle of a due evaluation: the checkpoint carries it, and the end is the same.
#[test]
fn an_evaluation_that_was_stopped_is_made_first() {
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(80_000)).expect("the corpus");
    let long = ["--set", "epochs=1", "--set", "total_steps=6", "--set", "data.validation_fraction=0.9"];
    expect(lab.train("straight").args(long), 0);
    let straight = lab.checkpoints("straight");
    // An evaluation takes some tenths of a second. On a busy machine the signal may come after it: then again.
    let stopped_in_it = |instant: u64, run: &str| {
        let mut child = support::start(lab.train(run).args(long).stdout(Stdio::null()).stderr(Stdio::null()));
        wait_for(&lab.path(run).join("journal.jsonl"), r#""global_step":3,"#);
        std::thread::sleep(Duration::from_millis(instant));
        kill("-TERM", child.id());
        assert_eq!(child.wait().expect("it ends").code(), Some(75));
        keepstep::store::load(&support::newest(&lab.path(run))).expect("a checkpoint").pending
    };
    for instant in [20, 90] {
        let mut runs = (0..5).map(|attempt| format!("stopped{instant}_{attempt}"));
        let run = runs.find(|run| stopped_in_it(instant, run)).expect("a pending evaluation");
        let table = expect(support::program().arg("list").arg(lab.path(&run)), 0).stdout;
        assert!(String::from_utf8_lossy(&table).contains("evaluation pending"));
        let output = expect(lab.train(&run).args(long), 0);
        assert!(said(&output).contains("Evaluation at global step 3"), "{}", said(&output));
        assert_eq!(lab.checkpoints(&run), straight);
    }
}

/// Stops of every kind, in an order that a seed decides: the finished folder equals that of an uninterrupted run, file by file.
#[test]
fn any_sequence_of_stops_leaves_the_same_folder() {
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(6_000)).expect("the corpus");
    let set = [
        "--set",
        "epochs=8",
        "--set",
        "save_steps=25",
        "--set",
        "eval_steps=40",
        "--set",
        "max_checkpoints=3",
    ];
    let start = Instant::now();
    expect(lab.train("straight").args(set), 0);
    // Signals come while the run lasts, however fast the machine is.
    let latest = (start.elapsed().as_millis() as u64 * 3 / 4).clamp(1, 150);
    let straight = lab.checkpoints("straight");
    assert_eq!(straight.len(), 4, "{straight:?}");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let mut kinds = [0_u32; 5];
    // Where the machine is fast, a run is done after few stops, and never at its time limit.
    let seen = |kinds: &[u32]| kinds.iter().filter(|&&count| count > 0).count();
    for round in 0..20 {
        if round >= 3 && seen(&kinds) >= 4 {
            break;
        }
        let run = format!("run{round}");
        for session in 0.. {
            let mut train = hearing(&lab.train(&run));
            train.args(set).stdout(Stdio::null()).stderr(Stdio::null());
            let kind = if session < 6 { below(5) } else { 5 };
            match kind {
                0 => train.args(["--stop-after", &(1 + below(60)).to_string()]),
                1 => train.args(["--time-limit", "1s", "--set", "save_every=1s"]),
                _ => &mut train,
            };
            let mut child = support::start(&mut train);
            if let Some(signal) =
                [None, None, Some("-TERM"), Some("-HUP"), Some("-KILL")].get(kind as usize).copied().flatten()
            {
                std::thread::sleep(Duration::from_millis(20 + below(latest)));
                if below(2) == 0 {
                    let _ = Command::new("kill").args(["-USR1", &child.id().to_string()]).output();
                    std::thread::sleep(Duration::from_millis(below(latest / 2 + 1)));
                }
                let _ = Command::new("kill").args([signal, &child.id().to_string()]).output();
            }
            let status = child.wait().expect("it ends");
            if status.code() == Some(0) {
                break;
            }
            assert!(kind < 5, "{run}: nothing stopped this session, and it ended with {status}");
            kinds[kind as usize] += 1;
        }
        assert_eq!(lab.checkpoints(&run), straight, "{run}");
    }
    assert!(seen(&kinds) >= 4, "{kinds:?}");
}

/// A dry run says what would be done, and leaves everything as it is.
#[test]
fn a_dry_run_writes_nothing() {
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(3_000)).expect("the corpus");
    let tree = || {
        let mut found = Vec::new();
        let mut folders = vec![lab.path("")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                let metadata = path.metadata().expect("metadata");
                if metadata.is_dir() {
                    folders.push(path.clone());
                }
                found.push((path, metadata.len(), metadata.modified().expect("a time")));
            }
        }
        found.sort();
        found
    };
    let bpe = ["--set", "data.tokenizer={ bpe = 280 }"];
    let dry = |extra: &[&str], status: i32| {
        let before = tree();
        let output = expect(lab.train("run").args(bpe).arg("--dry-run").args(extra), status);
        assert_eq!(tree(), before, "something was written");
        output
    };
    let text = |output: std::process::Output| String::from_utf8(output.stdout).expect("text");
    let said_of_new = text(dry(&[], 0));
    for words in ["updates in all", "Memory: ", "Disk: at most ", "Time: about ", "WOULD BEGIN A NEW RUN"] {
        assert!(said_of_new.contains(words), "{words}:\n{said_of_new}");
    }
    expect(lab.train("run").args(bpe).args(["--stop-after", "7"]), 75);
    std::fs::remove_file(lab.path("run/.lock")).expect("the lock's file");
    let resumed = text(dry(&[], 0));
    assert!(resumed.contains("⚡ WILL RESUME FROM:") && resumed.contains("Global step: 7"), "{resumed}");
    let json: serde_json::Value = serde_json::from_str(&text(dry(&["--json"], 0))).expect("JSON");
    let total = json["plan"]["total_steps"].as_u64().expect("a number");
    assert_eq!((&json["updates_left"], &json["resume"]["global_step"]), (&(total - 7).into(), &7.into()));
    let size = std::fs::metadata(support::newest(&lab.path("run"))).expect("a checkpoint").len();
    let stated = json["disk"]["checkpoint_bytes"].as_u64().expect("a size");
    assert!(size.abs_diff(stated) < 2_000, "{size} bytes, and {stated} were foretold");
    assert!(said(&dry(&["--set", "seed=8"], 2)).contains("`seed`"));
    // A source that is not the newest: the dry run names the way back, as the run itself does.
    let older = lab.path("older.pt").display().to_string();
    std::fs::copy(support::newest(&lab.path("run")), &older).expect("a copy");
    expect(lab.train("run").args(bpe).args(["--stop-after", "1"]), 75);
    let later = text(dry(&["--resume", &older], 0));
    assert!(later.contains("continuing from there (--rewind goes back)"), "{later}");
}

/// Training continues when the reader of standard error ends or the terminal closes.
#[test]
fn nobody_has_to_listen() {
    let lab = Lab::new();
    let mut child = support::start(lab.train("run").stdout(Stdio::null()).stderr(Stdio::piped()));
    drop(child.stderr.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(lab.checkpoints("run"), lab.straight("straight"));
}
