//! The operations that are no matmuls, each next to its floor.

use super::measure::{median, with_and_without_avx512};
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
    for size in ["S", "M"] {
        for (name, times) in with_and_without_avx512("keepstep-model", "ops", size)? {
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
