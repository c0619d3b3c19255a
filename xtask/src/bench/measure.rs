//! Running one side of a measurement and reading what it prints.

use crate::command::{cargo, describe};
use crate::processor::Instructions;
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

/// Measures a benchmark that needs the feature `testing`: with this processor's instructions and, if AVX-512 is among them,
/// with AVX2 alone. Each result has a name.
pub(super) fn with_and_without_avx512(
    package: &str,
    bench: &str,
    size: &str,
) -> Result<Vec<(String, Times)>, String> {
    let kinds: &[&[&str]] = if Instructions::Avx512.are_here() { &[&[], &["avx2"]] } else { &[&[]] };
    let measured = kinds.iter().map(|options| {
        let mut times = Times::new();
        for _ in 0..ROUNDS {
            let mut command = cargo();
            command.args(["bench", "--quiet", "-p", package, "--features", "testing"]);
            command.args(["--bench", bench, "--", size]).args(*options);
            collect(&mut command, &mut times)?;
        }
        let name = if options.is_empty() { size.to_owned() } else { format!("{size}, avx2") };
        Ok((name, times))
    });
    measured.collect()
}

pub(super) fn median(times: &Times, what: &str) -> f64 {
    let mut list = times.get(what).cloned().unwrap_or_default();
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or(f64::NAN)
}
