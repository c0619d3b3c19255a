//! One training update, compared with PyTorch's.

use super::measure::{ROUNDS, Times, bench, collect, median};
use crate::processor::Instructions;
use std::path::Path;
use std::process::Command;

/// What is measured.
#[derive(Clone, Copy)]
struct Case {
    size: &'static str,
    /// Per update.
    tokens: u32,
    updates: u32,
    /// `bf16`, `recompute` or `avx2`.
    option: Option<&'static str>,
}

impl Case {
    const fn new(size: &'static str, tokens: u32, updates: u32, option: Option<&'static str>) -> Case {
        Case { size, tokens, updates, option }
    }

    fn name(self) -> String {
        self.option.map_or(self.size.to_owned(), |option| format!("{}, {option}", self.size))
    }

    /// Whether PyTorch does the same.
    fn has_peer(self) -> bool {
        self.option != Some("recompute")
    }
}

const CASES: [Case; 7] = [
    Case::new("S", 12 * 64, 300, None),
    Case::new("M", 16 * 256, 5, None),
    Case::new("M", 16 * 256, 5, Some("recompute")),
    Case::new("M", 16 * 256, 5, Some("bf16")),
    Case::new("V", 64 * 64, 3, None),
    Case::new("S", 12 * 64, 300, Some("avx2")),
    Case::new("M", 16 * 256, 5, Some("avx2")),
];

/// The block sizes of the last table, at 4096 tokens a micro-batch.
const BLOCK_SIZES: [Case; 4] = [
    Case::new("64", 4096, 3, None),
    Case::new("256", 4096, 3, None),
    Case::new("1024", 4096, 3, None),
    Case::new("4096", 4096, 3, None),
];

/// Tells PyTorch and its libraries to leave AVX-512 out.
const WITHOUT_AVX512: [(&str, &str); 3] =
    [("ATEN_CPU_CAPABILITY", "avx2"), ("ONEDNN_MAX_CPU_ISA", "AVX2"), ("MKL_ENABLE_INSTRUCTIONS", "AVX2")];

pub(super) fn run(torch: Option<&Path>) -> Result<(), String> {
    println!(
        "S: 4 layers, 4 heads, 128 wide, block 64, batch 12; M: 6, 6, 384, 256, 16; V: 2, 4, 128, 64, 64,"
    );
    println!("and a vocabulary of 50,257 entries instead of 256.\n");
    println!(
        "training                 ms/update   tokens/s  peak MiB   of what must be held   PyTorch ms   MiB   times"
    );
    let mut floors = Vec::new();
    for case in CASES {
        // Without the instruction, bf16 is emulated, and its speed means nothing.
        if case.option == Some("bf16") && !Instructions::Avx512Bf16.are_here() {
            println!("{}: left out, since this processor lacks AVX512-BF16", case.name());
            continue;
        }
        // Without AVX-512, every case is one with AVX2.
        if case.option == Some("avx2") && !Instructions::Avx512.are_here() {
            continue;
        }
        let ours = measure(case, torch, &case.name())?;
        if matches!(case.option, None | Some("avx2")) && case.size != "V" {
            floors.push((case.name(), ours));
        }
    }
    for (size, times) in floors {
        print_floors(&size, &times);
    }
    println!("\n2 layers, 4 heads, 128 wide; otherwise as above");
    for case in BLOCK_SIZES {
        measure(case, torch, &format!("block {}", case.size))?;
    }
    println!();
    Ok(())
}

/// Measures both sides of a case in turn and returns ours.
fn measure(case: Case, torch: Option<&Path>, name: &str) -> Result<Times, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let torch = torch.filter(|_| case.has_peer());
    let (mut ours, mut theirs) = (Times::new(), Times::new());
    for _ in 0..ROUNDS {
        let updates = case.updates.to_string();
        let mut arguments = vec![case.size, updates.as_str()];
        arguments.extend(case.option);
        collect(&mut bench("keepstep-lm", "training", &arguments), &mut ours)?;
        if let Some(python) = torch {
            let mut command = Command::new(python);
            command.arg("-c").arg(include_str!("training.py"));
            command.args([case.size, &updates, &threads]).args(case.option);
            if case.option == Some("avx2") {
                command.envs(WITHOUT_AVX512);
            }
            collect(&mut command, &mut theirs)?;
        }
    }
    let time = median(&ours, "update");
    let (peak, held) = (median(&ours, "peak"), median(&ours, "held"));
    print!(
        "{name:<24} {time:>9.1} {:>10.0} {peak:>9.0} {:>22.2}",
        f64::from(case.tokens) / time * 1e3,
        peak / held
    );
    match torch {
        Some(_) => {
            let theirs_time = median(&theirs, "update");
            println!(" {theirs_time:>12.1} {:>5.0} {:>7.2}", median(&theirs, "peak"), theirs_time / time);
        }
        None => println!(),
    }
    Ok(ours)
}

/// Where an update's time goes, and its floors.
fn print_floors(size: &str, times: &Times) {
    let of = |what: &str| median(times, what);
    let attention = of("attention_forward") + of("attention_backward");
    let phases = [
        ("forward and loss", of("loss"), of("products_forward") + of("attention_forward")),
        (
            "backward",
            of("gradient") - of("loss"),
            of("products_inputs") + of("products_weights") + of("attention_backward"),
        ),
        ("norm, clipping, AdamW", of("optimizer"), of("memory")),
    ];
    println!("\n{size}, where the time goes       ms   floor   times the floor");
    for (name, time, floor) in phases {
        println!("{name:<26} {time:>8.2} {floor:>7.2} {:>17.2}", time / floor);
    }
    println!(
        "products of linear layers and head {:.2} ms (forward {:.2}, inputs' gradients {:.2}, weights' {:.2}), of the \
         attentions {attention:.2}",
        of("products"),
        of("products_forward"),
        of("products_inputs"),
        of("products_weights"),
    );
    println!(
        "an update takes {:.2} times as long as the first, and {:.2} times as long as both",
        of("update") / of("products"),
        of("update") / (of("products") + attention)
    );
    if times.contains_key("peak_rate") {
        println!(
            "{:.0} GFLOP at the {:.0} GFLOP/s that multiply-adds in registers reach: {:.1} ms",
            of("operations"),
            of("peak_rate"),
            of("operations") / of("peak_rate") * 1e3
        );
    }
}
