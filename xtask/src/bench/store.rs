//! Saving and loading, beside `torch.save` and `torch.load`.

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
