//! One training update, beside PyTorch's.

use super::measure::{ROUNDS, Times, bench, collect, median};
use std::path::Path;
use std::process::Command;

pub(super) fn run(torch: Option<&Path>) -> Result<(), String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
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
        let theirs_peak =
            torch.map_or(String::new(), |_| format!("; PyTorch {:.0} MiB", median(&theirs, "peak")));
        let theirs = torch.map(|_| median(&theirs, "update"));
        let ratio = theirs.map_or(String::new(), |theirs| format!("{:.2}", theirs / time));
        line("keepstep", time, format!("{:.2}", time / median(&ours, "products")), ratio);
        if let Some(theirs) = theirs {
            line("PyTorch", theirs, String::new(), String::new());
        }
        let (peak, held) = (median(&ours, "peak"), median(&ours, "held"));
        println!(
            "{size}, peak of memory: {peak:.0} MiB, {:.2} of what must be held{theirs_peak}",
            peak / held
        );
    }
    println!();
    long_contexts(torch, threads)
}

/// Time and memory as the block size grows, at 4096 tokens a micro-batch.
fn long_contexts(torch: Option<&Path>, threads: usize) -> Result<(), String> {
    println!(
        "2 layers, 4 heads, 128 wide      ms/update   peak MiB   of what must be held   PyTorch ms   MiB"
    );
    for block_size in ["64", "256", "1024", "4096"] {
        let (mut ours, mut theirs) = (Times::new(), Times::new());
        for _ in 0..ROUNDS {
            collect(&mut bench("keepstep-lm", "training", &[block_size, "3"]), &mut ours)?;
            if let Some(python) = torch {
                let mut command = Command::new(python);
                command.arg("-c").arg(include_str!("training.py"));
                command.args([block_size, "3", &threads.to_string()]);
                collect(&mut command, &mut theirs)?;
            }
        }
        let (time, peak, held) = (median(&ours, "update"), median(&ours, "peak"), median(&ours, "held"));
        print!("block {block_size:<26} {time:>9.1} {peak:>10.0} {:>22.2}", peak / held);
        match torch {
            Some(_) => println!(" {:>12.1} {:>5.0}", median(&theirs, "update"), median(&theirs, "peak")),
            None => println!(),
        }
    }
    println!();
    Ok(())
}
