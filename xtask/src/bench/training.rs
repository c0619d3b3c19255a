//! One training update, beside PyTorch's.

use super::measure::{ROUNDS, Times, bench, collect, median};
use std::path::Path;
use std::process::Command;

/// What is measured.
struct Case {
    size: &'static str,
    /// Per update.
    tokens: u32,
    updates: u32,
    /// If it is not float32.
    precision: Option<&'static str>,
}

const CASES: [Case; 3] = [
    Case { size: "S", tokens: 12 * 64, updates: 60, precision: None },
    Case { size: "M", tokens: 16 * 256, updates: 5, precision: None },
    Case { size: "M", tokens: 16 * 256, updates: 5, precision: Some("bf16") },
];

/// Elsewhere it would be emulated, which says nothing of its speed.
fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

pub(super) fn run(torch: Option<&Path>) -> Result<(), String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "training                        ms/update   tokens/s   of the products' time   faster than PyTorch"
    );
    for Case { size, tokens, updates, precision } in CASES {
        if precision.is_some() && !has_bf16() {
            println!("{size}, bf16: left out, since this processor lacks AVX512-BF16");
            continue;
        }
        let (mut ours, mut theirs) = (Times::new(), Times::new());
        for _ in 0..ROUNDS {
            let updates = updates.to_string();
            let mut arguments = vec![size, updates.as_str()];
            arguments.extend(precision);
            collect(&mut bench("keepstep-lm", "training", &arguments), &mut ours)?;
            if let Some(python) = torch {
                let mut command = Command::new(python);
                command.arg("-c").arg(include_str!("training.py"));
                command.args([size, &updates, &threads.to_string()]).args(precision);
                collect(&mut command, &mut theirs)?;
            }
        }
        let time = median(&ours, "update");
        let line = |name: &str, time: f64, floor: String, ratio: String| {
            println!(
                "{size}, {name:<26} {time:>10.1} {:>10.0} {floor:>23} {ratio:>21}",
                f64::from(tokens) / time * 1e3
            );
        };
        let theirs_peak =
            torch.map_or(String::new(), |_| format!("; PyTorch {:.0} MiB", median(&theirs, "peak")));
        let theirs = torch.map(|_| median(&theirs, "update"));
        let ratio = theirs.map_or(String::new(), |theirs| format!("{:.2}", theirs / time));
        let name = |who: &str| precision.map_or(who.to_owned(), |precision| format!("{who}, {precision}"));
        line(&name("keepstep"), time, format!("{:.2}", time / median(&ours, "products")), ratio);
        if let Some(theirs) = theirs {
            line(&name("PyTorch"), theirs, String::new(), String::new());
        }
        if precision.is_none() {
            print!(
                "{size}, its products alone: forward {:.1} ms, inputs' gradients {:.1}, weights' gradients {:.1}",
                median(&ours, "forward"),
                median(&ours, "inputs"),
                median(&ours, "weights")
            );
            match ours.contains_key("peak_rate") {
                true => {
                    let least = median(&ours, "operations") / median(&ours, "peak_rate") * 1e3;
                    println!("; {least:.1} at the processor's peak");
                }
                false => println!(),
            }
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
