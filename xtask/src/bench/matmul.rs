//! Matmuls next to the processor's peak of multiply-adds.

use super::measure::{median, with_and_without_avx512};
use std::path::Path;

pub(super) fn run(_: Option<&Path>) -> Result<(), String> {
    println!(
        "matmuls of linear layers on one thread, % of the peak   forward   inputs' gradients   weights'"
    );
    for size in ["S", "M"] {
        for (name, shares) in with_and_without_avx512("keepstep-numerics", "matmul", size)? {
            print!("{name:<55}");
            for (phase, width) in [("forward", 8), ("inputs", 20), ("weights", 11)] {
                print!(" {:>width$.1}", median(&shares, phase));
            }
            println!();
        }
    }
    println!();
    Ok(())
}
