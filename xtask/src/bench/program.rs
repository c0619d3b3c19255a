//! Watches the program from outside: when it prints what, and how much memory it takes.

use crate::command::{describe, root};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// `keepstep train CONFIG --json-progress` with changed keys.
pub(super) fn train(config: &str, changes: &[(&str, String)]) -> Command {
    let mut command = Command::new(binary());
    command.args(["train", config, "--json-progress"]);
    for (key, value) in changes {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command
}

fn binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("release").join("keepstep")
}

/// A moment of a program's life.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    /// Seconds since it was started.
    pub(super) at: f64,
    /// The largest memory that it has had, in MB.
    pub(super) memory: f64,
    /// The line that it wrote.
    pub(super) line: String,
}

/// Runs a program until it writes a line that contains `last`, kills it there, and gives the moment of each line.
pub(super) fn watch(command: &mut Command, last: &str) -> Result<Vec<Moment>, String> {
    let line = describe(command);
    let failed = |error: std::io::Error| format!("{line}: {error}");
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let mut moments = Vec::new();
    let out = child.stdout.take().map(BufReader::new);
    for line in out.into_iter().flat_map(BufRead::lines) {
        let line = line.map_err(failed)?;
        let is_last = line.contains(last);
        moments.push(Moment { at: started.elapsed().as_secs_f64(), memory: memory(&child), line });
        if is_last {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            return Ok(moments);
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    Err(format!("{line}: it ended without {last:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// VmHWM, in MB.
fn memory(child: &Child) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: f64 =
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN);
    kibibytes * 1024.0 / 1e6
}

/// The moment of the first line that contains `text`.
pub(super) fn first(moments: &[Moment], text: &str) -> f64 {
    moments.iter().find(|moment| moment.line.contains(text)).map_or(f64::NAN, |moment| moment.at)
}
