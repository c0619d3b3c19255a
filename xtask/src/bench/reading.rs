//! Reading a large file as resuming does, compared with `torch.load`, each in a process of its own.

use super::measure::{Times, bench, collect, median, scratch};
use std::path::Path;
use std::process::Command;

/// Reads vary more than other figures.
const READING_ROUNDS: usize = 7;

pub(super) fn run(torch: Option<&Path>) -> Result<(), String> {
    let folder = scratch("reading")?;
    let file = folder.join("state.pt");
    let path = file.display().to_string();
    let (mut ours, mut theirs) = (Times::new(), Times::new());
    collect(&mut bench("keepstep-pt", "reading", &["write", &path, "512"]), &mut ours)?;
    for _ in 0..READING_ROUNDS {
        collect(&mut bench("keepstep-pt", "reading", &["read", &path]), &mut ours)?;
        if let Some(python) = torch {
            collect(Command::new(python).args(["-c", include_str!("reading.py"), &path]), &mut theirs)?;
        }
    }
    println!("reading a state of 512 MiB into fresh memory");
    let mut lines = vec![
        ("keepstep: read every tensor and compare every checksum, ms", median(&ours, "load")),
        ("of which touching so much fresh memory takes, ms", median(&ours, "touch")),
        ("keepstep: verify every checksum without reading in, ms", median(&ours, "verify")),
        ("keepstep: the most memory held, MiB", median(&ours, "peak")),
    ];
    if torch.is_some() {
        lines.push(("torch.load, which verifies nothing, ms", median(&theirs, "load")));
        lines.push(("torch.load: the most memory held beyond its start, MiB", median(&theirs, "peak")));
    }
    for (name, figure) in lines {
        println!("{name:<60} {figure:>8.0}");
    }
    println!();
    std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))
}
