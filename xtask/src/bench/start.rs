//! From the start of the process to the first update after a checkpoint of 100 MB, compared with a PyTorch script.

use super::measure::{ROUNDS, scratch};
use super::program::{first, train, watch};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Nine million parameters, of which a checkpoint has three copies.
const CONFIG: &str = "\
batch_size = 4
eval_batches = 1
[model]
block_size = 128
n_layer = 5
n_head = 6
n_embd = 384
";

/// What each side prints on its way, and what has happened by then.
const OURS: [(&str, &str); 2] =
    [("\"plan\"", "corpus known, checkpoint verified and loaded"), ("\"update\"", "first update")];
const THEIRS: [(&str, &str); 5] = [
    ("torch", "import torch"),
    ("transformers", "import transformers' GPT-2"),
    ("built", "model and optimizer built"),
    ("loaded", "checkpoint loaded, nothing verified"),
    ("update", "first update"),
];

pub(super) fn run(torch: Option<&Path>) -> Result<(), String> {
    let folder = scratch("start")?;
    let result = measure(&folder, torch);
    fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    result
}

fn measure(folder: &Path, torch: Option<&Path>) -> Result<(), String> {
    let (config, corpus) = (folder.join("config.toml"), folder.join("corpus.txt"));
    let failed = |error: std::io::Error| error.to_string();
    fs::write(&config, CONFIG).map_err(failed)?;
    fs::write(&corpus, "A text of some length, one line after the other.\n".repeat(20_000))
        .map_err(failed)?;
    let run = folder.join("run");
    let config = config.display().to_string();
    let changes = [
        ("output_dir", run.display().to_string()),
        ("data.paths", format!("[{:?}]", corpus.display().to_string())),
        ("data.cache_dir", folder.join("cache").display().to_string()),
    ];
    std::thread::sleep(std::time::Duration::from_secs(4));
    let status = train(&config, &changes).args(["--stop-after", "1"]).output().map_err(failed)?;
    if status.status.code() != Some(75) {
        return Err(format!("{}: {}", status.status, String::from_utf8_lossy(&status.stderr)));
    }
    let checkpoint = fs::read_dir(&run)
        .map_err(failed)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "pt"))
        .ok_or("the run saved no checkpoint")?;
    let size = fs::metadata(&checkpoint).map_err(failed)?.len();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(watch(&mut train(&config, &changes), "\"update\"")?);
        if let Some(python) = torch {
            let mut command = Command::new(python);
            command.arg("-u").arg("-c").arg(include_str!("start.py")).arg(&checkpoint);
            theirs.push(watch(&mut command, "update")?);
        }
    }
    println!(
        "start, to the first update after a checkpoint of {} MB    seconds since the start",
        size / 1_000_000
    );
    for (side, rounds, steps) in [("keepstep", &ours, &OURS[..]), ("PyTorch", &theirs, &THEIRS[..])] {
        for (line, what) in steps {
            let mut times: Vec<f64> = rounds.iter().map(|moments| first(moments, line)).collect();
            times.sort_by(f64::total_cmp);
            if let Some(time) = times.get(times.len() / 2) {
                println!("{:<60} {time:>19.3}", format!("{side}: {what}"));
            }
        }
    }
    println!();
    Ok(())
}
