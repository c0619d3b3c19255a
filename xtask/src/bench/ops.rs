//! The operations that are no matmuls, each next to its floor.

use super::measure::{ROUNDS, Times, collect, median};
use crate::command::cargo;
use crate::processor::Instructions;
use std::path::Path;

const OPERATIONS: [(&str, &str); 6] = [
    ("layer_norm", "LayerNorm, forward"),
    ("layer_norm_backward", "LayerNorm, backward"),
    ("gelu", "GELU, forward"),
    ("gelu_backward", "GELU, backward"),
    ("softmax_diagonal", "softmax, blocks on the diagonal"),
    ("softmax_whole", "softmax, whole blocks"),
];

pub(super) fn run(_: Option<&Path>) -> Result<(), String> {
    let kinds: &[&[&str]] = if Instructions::Avx512.are_here() { &[&[], &["avx2"]] } else { &[&[]] };
    for size in ["S", "M"] {
        for options in kinds {
            let mut times = Times::new();
            for _ in 0..ROUNDS {
                let mut command = cargo();
                command.args(["bench", "--quiet", "-p", "keepstep-model", "--features", "testing"]);
                command.args(["--bench", "ops", "--", size]).args(*options);
                collect(&mut command, &mut times)?;
            }
            let name = if options.is_empty() { size.to_owned() } else { format!("{size}, avx2") };
            println!("{:<40} ns per 1,000 elements   floor   times", format!("operations of {name}"));
            for (operation, name) in OPERATIONS {
                let time = median(&times, operation);
                let floor = median(&times, &format!("{operation}_floor"));
                println!("{name:<40} {time:>21.0} {floor:>7.0} {:>7.1}", time / floor);
            }
            println!();
        }
    }
    Ok(())
}
