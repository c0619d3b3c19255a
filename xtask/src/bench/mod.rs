//! `cargo xtask bench`: figures, measured side by side in one run, because machines are noisy. Ratios are what counts.

use crate::command::{cargo, describe, run};
use crate::machine;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rounds in which each side takes its turn.
const ROUNDS: usize = 3;

/// Times of one side, in milliseconds, by what was measured.
type Times = BTreeMap<String, Vec<f64>>;

pub(crate) fn main(arguments: &[String]) -> Result<(), String> {
    let torch = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => None,
        ["--against", "torch"] => Some(machine::torch_python()?),
        _ => return Err(format!("bench takes nothing or `--against torch`, not {arguments:?}")),
    };
    run(cargo().args(["build", "--release", "--benches", "-p", "keepstep", "-p", "keepstep-lm"]))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{threads} threads\n");
    training(torch.as_deref(), threads)?;
    store(torch.as_deref())?;
    resume()
}

fn training(torch: Option<&Path>, threads: usize) -> Result<(), String> {
    println!(
        "training                        ms/update   tokens/s   of the products' time   faster than PyTorch"
    );
    for (size, tokens, updates) in [("S", 12 * 64, 60), ("M", 16 * 256, 5)] {
        let (mut ours, mut theirs) = (Times::new(), Times::new());
        for _ in 0..ROUNDS {
            collect(&mut bench("keepstep-lm", "training", &[size, &updates.to_string()]), &mut ours)?;
            if let Some(python) = torch {
                let mut command = Command::new(python);
                command.arg("-c").arg(include_str!("training.py"));
                command.args([size, &updates.to_string(), &threads.to_string()]);
                collect(&mut command, &mut theirs)?;
            }
        }
        let time = median(&ours, "update");
        let line = |name: &str, time: f64, floor: String, ratio: String| {
            println!(
                "{size}, {name:<26} {time:>10.1} {:>10.0} {floor:>23} {ratio:>21}",
                tokens as f64 / time * 1e3
            );
        };
        let theirs = torch.map(|_| median(&theirs, "update"));
        let ratio = theirs.map_or(String::new(), |theirs| format!("{:.2}", theirs / time));
        line("keepstep", time, format!("{:.2}", time / median(&ours, "products")), ratio);
        if let Some(theirs) = theirs {
            line("PyTorch", theirs, String::new(), String::new());
        }
    }
    println!();
    Ok(())
}

fn store(torch: Option<&Path>) -> Result<(), String> {
    const MEBIBYTES: &str = "512";
    let folder = scratch("store")?;
    let (mut ours, mut theirs) = (Times::new(), Times::new());
    for round in 0..ROUNDS {
        let place = folder.join(round.to_string()).display().to_string();
        collect(&mut bench("keepstep", "store", &["save", &place, MEBIBYTES]), &mut ours)?;
        let _ = std::fs::remove_dir_all(&place);
        if let Some(python) = torch {
            let mut command = Command::new(python);
            command.arg("-c").arg(include_str!("store.py")).arg(folder.join("torch.pt")).arg(MEBIBYTES);
            collect(&mut command, &mut theirs)?;
        }
    }
    println!("a state of 512 MiB                                            ms");
    let mut lines = vec![
        ("raw write and fsync", median(&ours, "raw")),
        ("keepstep: publish durably, read back and verify", median(&ours, "publish")),
        ("keepstep: verify every checksum", median(&ours, "verify")),
        ("keepstep: load with every checksum", median(&ours, "load")),
    ];
    if torch.is_some() {
        lines.push(("torch.save and fsync", median(&theirs, "publish")));
        lines.push(("torch.load, which verifies nothing", median(&theirs, "load")));
    }
    for (name, time) in lines {
        println!("{name:<55} {time:>8.0}");
    }
    println!();
    std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn resume() -> Result<(), String> {
    println!("resume, from opening the folder to knowing the next sample    ms");
    for step in ["10", "10000", "100000000"] {
        let folder = scratch("resume")?;
        let mut times = Times::new();
        for round in 0..ROUNDS {
            let place = folder.join(round.to_string()).display().to_string();
            collect(&mut bench("keepstep", "store", &["resume", &place, step]), &mut times)?;
        }
        println!(
            "{:<55} {:>8.1}",
            format!("at step {step} of an epoch of 200000000"),
            median(&times, "resume")
        );
        std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    Ok(())
}

fn scratch(name: &str) -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("keepstep-bench-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

fn bench(package: &str, name: &str, arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["bench", "--quiet", "-p", package, "--bench", name, "--"]).args(arguments);
    command
}

/// Runs a program that prints `what milliseconds` lines.
fn collect(command: &mut Command, times: &mut Times) -> Result<(), String> {
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

fn median(times: &Times, what: &str) -> f64 {
    let mut list = times.get(what).cloned().unwrap_or_default();
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or(f64::NAN)
}
