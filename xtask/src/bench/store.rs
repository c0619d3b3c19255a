//! Saving and loading, compared with PyTorch's ways, and what saving costs training.

use super::measure::{ROUNDS, Times, bench, collect, median, scratch};
use std::path::Path;
use std::process::Command;

pub(super) fn run(torch: Option<&Path>) -> Result<(), String> {
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
        ("keepstep: publish until durable, checksums included", median(&ours, "durable")),
        ("keepstep: publish, read back and verify", median(&ours, "publish")),
        ("keepstep: verify every checksum", median(&ours, "verify")),
        ("keepstep: load with every checksum", median(&ours, "load")),
    ];
    if torch.is_some() {
        lines.push(("torch.save and fsync", median(&theirs, "publish")));
        lines.push(("safetensors and fsync", median(&theirs, "safetensors")));
        lines.push(("torch.load, which verifies nothing", median(&theirs, "load")));
    }
    for (name, time) in lines {
        println!("{name:<55} {time:>8.0}");
    }
    println!("raw / durable: {:.2}\n", median(&ours, "raw") / median(&ours, "durable"));
    training(&folder, torch.map(|_| median(&theirs, "stall")))?;
    std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// Training with a save every ten updates and with none, in turn.
fn training(folder: &Path, async_save: Option<f64>) -> Result<(), String> {
    for (size, updates) in [("512", "63"), ("M", "23")] {
        let (mut saving, mut none, mut foreground) = (Times::new(), Times::new(), Times::new());
        for _ in 0..ROUNDS {
            for (save_steps, background, times) in [
                ("10", "true", &mut saving),
                ("1000000", "true", &mut none),
                ("10", "false", &mut foreground),
            ] {
                let place = folder.join("training");
                let arguments = [&place.display().to_string(), size, updates, save_steps, background];
                collect(&mut bench("keepstep-lm", "saving", &arguments), times)?;
                let _ = std::fs::remove_dir_all(&place);
            }
        }
        let state = median(&saving, "state");
        let stalls = saving.get("stall").map_or(&[][..], Vec::as_slice);
        println!("training, a state of {state:.0} MiB, a save every 10 updates");
        println!(
            "  stall per save, of {} saves: median {:.3} ms, worst {:.3} ms",
            stalls.len(),
            median(&saving, "stall"),
            stalls.iter().copied().fold(0.0, f64::max)
        );
        let waits = saving.get("wait").map_or(&[][..], Vec::as_slice);
        let (late, longest) =
            (waits.iter().filter(|wait| **wait > 0.0).count(), waits.iter().copied().fold(0.0, f64::max));
        println!("  waits for the save before: {late}, the longest {longest:.0} ms");
        if let (Some(time), "512") = (async_save, size) {
            println!("  torch.distributed.checkpoint.async_save, 512 MiB: stall {time:.0} ms");
        }
        let (with, without) = (median(&saving, "update"), median(&none, "update"));
        println!(
            "  ms per update: {with:.1} in the background, {without:.1} without saves ({:+.1} %), {:.1} in the foreground",
            (with / without - 1.0) * 100.0,
            median(&foreground, "update")
        );
        let (with, without) = (median(&saving, "peak"), median(&foreground, "peak"));
        println!(
            "  peak memory: {with:.0} MiB in the background, {without:.0} MiB in the foreground: {:.2} of the state more\n",
            (with - without) / state
        );
    }
    Ok(())
}
