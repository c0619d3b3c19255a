//! Running one side of a measurement and reading what it prints.

use crate::command::{cargo, describe};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Rounds in which each side takes its turn.
pub(super) const ROUNDS: usize = 3;

/// Times of one side, in milliseconds, by what was measured.
pub(super) type Times = BTreeMap<String, Vec<f64>>;

pub(super) fn scratch(name: &str) -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("keepstep-bench-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

pub(super) fn bench(package: &str, name: &str, arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["bench", "--quiet", "-p", package, "--bench", name, "--"]).args(arguments);
    command
}

/// Runs a program that prints `what milliseconds` lines.
pub(super) fn collect(command: &mut Command, times: &mut Times) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{}: {error}", describe(command)))?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((what, Ok(time))) = line.split_once(' ').map(|(what, time)| (what, time.parse())) {
            times.entry(what.to_owned()).or_default().push(time);
        }
    }
    Ok(())
}

pub(super) fn median(times: &Times, what: &str) -> f64 {
    let mut list = times.get(what).cloned().unwrap_or_default();
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or(f64::NAN)
}
