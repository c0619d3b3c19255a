//! Writing text, compared with transformers' `generate` with its cache.

use super::measure::{ROUNDS, Times, bench, collect, median};
use std::path::Path;
use std::process::Command;

pub(super) fn run(torch: Option<&Path>) -> Result<(), String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    println!("generate, one sequence                        tokens/s   faster than transformers");
    for (size, prompt, tokens) in [("S", "8", "56"), ("M", "16", "240"), ("GPT-2", "32", "64")] {
        let (mut ours, mut theirs) = (Times::new(), Times::new());
        for _ in 0..ROUNDS {
            collect(&mut bench("keepstep-lm", "generate", &[size, prompt, tokens]), &mut ours)?;
            if let Some(python) = torch {
                let mut command = Command::new(python);
                command.arg("-c").arg(include_str!("generate.py")).args([size, prompt, tokens, &threads]);
                collect(&mut command, &mut theirs)?;
            }
        }
        for way in ["greedy", "sampled"] {
            let time = median(&ours, way);
            let rate = |time: f64| 1e3 / time;
            let theirs = torch.map(|_| median(&theirs, way));
            let ratio = theirs.map_or(String::new(), |theirs| format!("{:.2}", theirs / time));
            println!("{:<44} {:>9.0} {ratio:>26}", format!("{size}, {way}: keepstep"), rate(time));
            if let Some(theirs) = theirs {
                println!("{:<44} {:>9.0}", format!("{size}, {way}: transformers"), rate(theirs));
            }
        }
    }
    println!();
    Ok(())
}
