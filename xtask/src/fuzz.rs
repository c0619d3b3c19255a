//! `cargo xtask fuzz` and `cargo xtask differential`: files that the `.pt` reader might take wrongly.

use crate::command::{self, cargo, describe, root};
use crate::machine;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// The targets, and the longest input that each is given.
const TARGETS: [(&str, &str); 4] = [("file", "8192"), ("legacy", "2048"), ("pickle", "1500"), ("zip", "96")];

/// Runs every target side by side. The corpora grow in the cache, outside the repository; the seeds are only read.
fn run_all(minutes: u64) -> Result<(), String> {
    let (program, place) = machine::cargo_fuzz()?;
    let (fuzz, target_dir) = (root().join("fuzz"), place.join("target"));
    let cargo_fuzz = |verb: &str| {
        let mut command = Command::new(&program);
        // cargo-fuzz needs flags that a stable compiler hides. Safe code has nothing for the sanitizers to find.
        command.arg(verb).arg("--fuzz-dir").arg(&fuzz).arg("--target-dir").arg(&target_dir);
        command.args(["--sanitizer", "none"]).env("RUSTC_BOOTSTRAP", "1").current_dir(&fuzz);
        command
    };
    command::run(&mut cargo_fuzz("build"))?;
    let mut running: Vec<(String, Child)> = Vec::new();
    for (target, max_len) in TARGETS {
        let (corpus, findings) = (folder(&place, "corpus", target)?, folder(&place, "findings", target)?);
        let mut command = cargo_fuzz("run");
        command.arg(target).arg(corpus).arg(fuzz.join("seeds").join(target)).args([
            "--".to_owned(),
            format!("-max_len={max_len}"),
            format!("-max_total_time={}", minutes * 60),
            format!("-artifact_prefix={}/", findings.display()),
            "-timeout=60".to_owned(),
            "-verbosity=0".to_owned(),
            "-print_final_stats=1".to_owned(),
        ]);
        if matches!(target, "legacy" | "pickle") {
            command.arg(format!("-dict={}", fuzz.join("pickle.dict").display()));
        }
        let line = describe(&command);
        eprintln!("xtask: {line}");
        running.push((line, command.spawn().map_err(|error| format!("{}: {error}", program.display()))?));
    }
    let mut failed = Vec::new();
    for (line, mut child) in running {
        match child.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => failed.push(format!("{line}: {status}")),
            Err(error) => failed.push(format!("{line}: {error}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// Checks that the targets compile. Nothing is linked, so it needs no C++ compiler and no libFuzzer.
pub(crate) fn check() -> Result<(), String> {
    let mut clippy = cargo();
    clippy.args([
        "clippy",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target-dir",
        "target/fuzz",
        "--locked",
        "--quiet",
    ]);
    command::run(clippy.args(["--", "-D", "warnings"]).env("CUSTOM_LIBFUZZER_PATH", "/nowhere/libFuzzer.a"))
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => run_all(10),
        ["--minutes", minutes] => {
            run_all(minutes.parse().map_err(|_| format!("--minutes takes a number, not {minutes}"))?)
        }
        _ => Err(format!("fuzz takes --minutes N or nothing, not {arguments:?}")),
    }
}

/// The differential test on more files than `cargo xtask test` takes.
pub(crate) fn differential(arguments: &[String]) -> Result<(), String> {
    let files = match arguments {
        [] => "10000",
        [files] if files.parse::<u32>().is_ok() => files,
        _ => return Err(format!("differential takes a number of files or nothing, not {arguments:?}")),
    };
    let mut command = cargo();
    command.args([
        "test",
        "-p",
        "keepstep-pt",
        "--test",
        "it",
        "--",
        "differential::",
        "--ignored",
        "--nocapture",
    ]);
    command.env("KEEPSTEP_TORCH_PYTHON", machine::torch_python()?).env("KEEPSTEP_DIFFERENTIAL_FILES", files);
    command::run(&mut command)
}

fn folder(place: &Path, what: &str, target: &str) -> Result<PathBuf, String> {
    let folder = place.join(what).join(target);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}
