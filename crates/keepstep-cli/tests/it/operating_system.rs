//! Signals, limits, and file systems that lack a feature.

use crate::support;

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
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/shim.c");
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
        assert!(began.elapsed() < Duration::from_secs(60), "{what} does not come");
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
    // Where nothing stops it, the time limit does.
    let long =
        ["--set=epochs=100000", "--set=save_steps=1000000", "--set=eval_steps=1000000", "--time-limit=60s"];
    for (signal, name) in [("-USR2", "SIGUSR2"), ("-XCPU", "SIGXCPU")] {
        let mut train = lab.train(name);
        train.args(long).stdout(Stdio::null()).stderr(Stdio::piped());
        with_shim(&lab, &mut train, &[("SHIM_FSYNC_MILLIS", "600")]);
        let child = support::start(&mut train);
        let journal = lab.path(name).join("journal.jsonl");
        wait_until("an update", || text(&journal).contains(r#""event":"update""#));
        kill(signal, child.id());
        std::thread::sleep(Duration::from_millis(400));
        kill(signal, child.id());
        let output = child.output();
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
    with_shim(&lab, &mut train, &[("SHIM_FSYNC_MILLIS", "20000")]);
    let mut child = support::start(&mut train);
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
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
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

/// NFS without a lock daemon answers flock with ENOLCK, some FUSE file systems with EINVAL.
#[test]
fn a_file_system_without_locks_is_used_and_named() {
    let lab = Lab::new();
    for (errno, name) in [("37", "nolck"), ("22", "inval"), ("38", "nosys"), ("95", "opnotsupp")] {
        let mut train = lab.train(name);
        train.args(["--stop-after", "1"]);
        with_shim(&lab, &mut train, &[("SHIM_FLOCK", errno)]);
        let output = expect(&mut train, 75);
        assert!(
            said(&output).contains("this file system has no locks")
                && said(&output).contains("no other process"),
            "{}",
            said(&output)
        );
    }
    let mut train = lab.train("eio");
    with_shim(&lab, &mut train, &[("SHIM_FLOCK", "5")]);
    let output = expect(&mut train, 1);
    assert!(said(&output).contains("flock of ") && said(&output).contains("os error 5"), "{}", said(&output));
}

/// CIFS of older kernels and some FUSE file systems have no fsync of folders.
#[test]
fn folders_that_cannot_be_synced_are_used_and_named() {
    let lab = Lab::new();
    let mut train = lab.train("run");
    with_shim(&lab, &mut train, &[("SHIM_FSYNC_FOLDER", "22")]);
    let output = expect(&mut train, 0);
    assert!(
        said(&output).contains("cannot sync folders") && said(&output).contains("loss of power"),
        "{}",
        said(&output)
    );
    assert_eq!(lab.checkpoints("run"), lab.straight("straight"));
    let mut train = lab.train("eio");
    with_shim(&lab, &mut train, &[("SHIM_FSYNC_FOLDER", "5")]);
    let output = expect(&mut train, 1);
    assert!(said(&output).contains("fsync of ") && said(&output).contains("os error 5"), "{}", said(&output));
}

/// `output_dir` is a link to a disk that is not mounted.
#[test]
fn an_output_folder_that_is_a_link_to_nowhere() {
    let lab = Lab::new();
    std::os::unix::fs::symlink(lab.path("mnt/disk"), lab.path("run")).expect("a link");
    for extra in [&[][..], &["--dry-run"]] {
        for run in ["run", "run/deeper"] {
            let output = expect(lab.train(run).args(extra), 2);
            let text = said(&output);
            assert!(
                text.contains("`output_dir`") && text.contains("mnt/disk") && text.contains("mount it"),
                "{text}"
            );
        }
    }
}

/// All files follow the umask, and with umask 002 two users of a group share a cache.
#[test]
fn files_follow_the_umask_and_two_users_share_a_cache() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(3_000)).expect("the corpus");
    let mode = |path: &Path| path.symlink_metadata().expect("metadata").mode() & 0o7777;
    for (umask, file, folder) in [("002", 0o664, 0o775), ("027", 0o640, 0o750)] {
        let (run, hf) = (lab.path(umask), lab.path(&format!("{umask}-hf")));
        let cache = lab.path(&format!("{umask}-cache"));
        let cache_dir = format!("data.cache_dir={}", cache.display());
        let before = format!("umask {umask}");
        let mut train = lab.train(umask);
        train.args(["--stop-after", "4", "--set", &cache_dir, "--set", "data.tokenizer={ bpe = 280 }"]);
        expect(&mut in_shell(&before, &train), 75);
        let mut export = support::program();
        export.arg("export").arg(support::newest(&run)).args(["--format", "hf", "--out"]).arg(&hf);
        expect(&mut in_shell(&before, &export), 0);
        let mut report = support::program();
        report.arg("report").arg(&run).arg("--out").arg(hf.join("page.html"));
        expect(&mut in_shell(&before, &report), 0);
        let mut folders = vec![run, hf, cache];
        let mut files = 0;
        while let Some(path) = folders.pop() {
            assert_eq!(mode(&path), folder, "{}", path.display());
            for entry in std::fs::read_dir(&path).expect("a folder") {
                let entry = entry.expect("an entry").path();
                if entry.is_dir() {
                    folders.push(entry);
                } else {
                    files += 1;
                    assert_eq!(mode(&entry), file, "{} with umask {umask}", entry.display());
                }
            }
        }
        assert!(files > 12, "{files} files");
    }

    // The second user reads what the first one has cached, and adds to it.
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("permissions");
    };
    open(&lab.path(""));
    std::fs::create_dir(lab.path("shared")).expect("a folder");
    open(&lab.path("shared"));
    std::fs::copy(env!("CARGO_BIN_EXE_keepstep"), lab.path("keepstep")).expect("the program");
    let is_root = lab.path("").metadata().expect("metadata").uid() == 0;
    let session = |user: u32, size: u32| {
        let mut train = Command::new(lab.path("keepstep"));
        train.arg("train").arg(lab.path("config.toml")).args(["--stop-after", "1"]);
        train.arg("--set").arg(format!("output_dir={}", lab.path(&format!("{user}-{size}")).display()));
        train.arg("--set").arg(format!("data.cache_dir={}/cache", lab.path("shared").display()));
        train.arg("--set").arg(format!("data.tokenizer={{ bpe = {size} }}"));
        let mut train = in_shell("umask 002", &train);
        // Where the tests do not run as root, both are the same user.
        if is_root {
            train.uid(user).gid(60_000);
        }
        let output = expect(&mut train, 75);
        assert!(!said(&output).contains("cached"), "{}", said(&output));
    };
    let files = || std::fs::read_dir(lab.path("shared/cache")).expect("the cache").count();
    session(60_001, 280);
    let first = files();
    session(60_002, 280);
    assert_eq!(files(), first, "the second user found everything in the cache");
    session(60_002, 290);
    assert!(files() > first, "the second user added to the cache");
    session(60_001, 290);
}

/// `ulimit -v` stands in for every limit on memory: a dry run and a run refuse before they allocate, and say what they need.
#[test]
fn too_little_memory_is_said_before_it_is_taken() {
    let lab = Lab::new();
    let large = ["--set", "model.n_embd=1024", "--set", "model.n_layer=12", "--set", "num_threads=1"];
    let before = "ulimit -v 1000000";
    let output = expect(&mut in_shell(before, lab.train("run").args(large)), 1);
    let text = said(&output);
    for words in ["this run needs ", "MB are available", "ulimit -v", "batch_size"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!lab.path("run").exists(), "nothing was written");
    let output = expect(&mut in_shell(before, lab.train("run").args(large).arg("--dry-run")), 0);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("THE MEMORY IS TOO SMALL") && text.contains("ulimit -v"), "{text}");
    assert!(text.contains("Time: not measured"), "{text}");
}

/// A real control group, where this machine lets the tests make one.
#[test]
fn the_limit_of_a_control_group_is_seen() {
    let memory = Path::new("/sys/fs/cgroup/memory");
    let (parent, limit) = if memory.is_dir() {
        (memory, "memory.limit_in_bytes")
    } else {
        (Path::new("/sys/fs/cgroup"), "memory.max")
    };
    let group = parent.join(format!("keepstep-test-{}", std::process::id()));
    if std::fs::create_dir(&group).is_err() {
        eprintln!("no control group can be made here: only the tests with a tree of files have run");
        return;
    }
    let lab = Lab::new();
    let output = std::fs::write(group.join(limit), "314572800").map(|()| {
        let large = ["--set", "model.n_embd=512", "--set", "model.n_layer=8", "--set", "num_threads=1"];
        let before = format!("echo $$ > {}/cgroup.procs", group.display());
        let run = in_shell(&before, lab.train("run").args(large)).output().expect("it starts");
        let dry =
            in_shell(&before, lab.train("run").args(large).arg("--dry-run")).output().expect("it starts");
        (run, dry)
    });
    std::fs::remove_dir(&group).expect("the group is empty again");
    let Ok((run, dry)) = output else {
        eprintln!(
            "control groups have no memory controller here: only the tests with a tree of files have run"
        );
        return;
    };
    assert_eq!(run.status.code(), Some(1), "{}", said(&run));
    assert!(said(&run).contains("control group") && said(&run).contains("this run needs "), "{}", said(&run));
    let text = String::from_utf8_lossy(&dry.stdout);
    assert_eq!(dry.status.code(), Some(0), "{}", said(&dry));
    assert!(text.contains("THE MEMORY IS TOO SMALL") && text.contains("control group"), "{text}");
}
