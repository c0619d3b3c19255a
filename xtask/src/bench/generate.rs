//! Writing text, compared with transformers' `generate` with its cache and with a loop that only reads the weights.

use super::measure::{ROUNDS, Times, bench, collect, median};
use std::path::Path;
use std::process::Command;

/// A size, the length of the prompt, the tokens to write and the rounds of one process.
const CASES: [(&str, &str, u32, &str); 3] =
    [("S", "8", 56, "9"), ("M", "16", 240, "3"), ("GPT-2", "32", 64, "5")];

pub(super) fn run(torch: Option<&Path>) -> Result<(), String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    for (size, prompt, tokens, rounds) in CASES {
        let (mut ours, mut theirs) = (Times::new(), Times::new());
        let count = tokens.to_string();
        for _ in 0..ROUNDS {
            let arguments = [size, prompt, &count, rounds];
            collect(&mut bench("keepstep-lm", "generate", &arguments), &mut ours)?;
            if let Some(python) = torch {
                let mut command = Command::new(python);
                command.arg("-c").arg(include_str!("generate.py")).args([size, prompt, &count, &threads]);
                collect(&mut command, &mut theirs)?;
            }
        }
        println!(
            "{:<28} {:>9} {:>13} {:>7} {:>6} {:>9}",
            format!("generate, {size}"),
            "tokens/s",
            "transformers",
            "faster",
            "GB/s",
            "of reading"
        );
        for (way, name) in [
            ("greedy", "one text, greedy"),
            ("sampled", "one text, sampled"),
            ("together-4", "4 texts together, sampled"),
            ("together-16", "16 texts together, sampled"),
        ] {
            let time = median(&ours, way);
            let (mut rate, mut faster) = (String::new(), String::new());
            if torch.is_some() {
                let theirs = median(&theirs, way);
                (rate, faster) = (format!("{:.0}", 1e3 / theirs), format!("{:.2}", theirs / time));
            }
            let (mut speed, mut share) = (String::new(), String::new());
            if !way.starts_with("together") {
                let step = median(&ours, &format!("{way}-step"));
                speed = format!("{:.1}", median(&ours, "megabytes") / step);
                share = format!("{:.0} %", 100.0 * median(&ours, "read") / step);
            }
            println!("{name:<28} {:>9.0} {rate:>13} {faster:>7} {speed:>6} {share:>9}", 1e3 / time);
        }
        let (megabytes, read) = (median(&ours, "megabytes"), median(&ours, "read"));
        println!("{:<28} {:>9.0} {:>28.1}", "the weights read, no more", 1e3 / read, megabytes / read);
        println!();
    }
    Ok(())
}
