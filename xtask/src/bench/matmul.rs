//! Matmuls next to the processor's peak of multiply-adds.

use super::measure::{ROUNDS, Times, collect, median};
use crate::command::cargo;
use crate::processor::Instructions;
use std::path::Path;

pub(super) fn run(_: Option<&Path>) -> Result<(), String> {
    println!(
        "matmuls of linear layers on one thread, % of the peak   forward   inputs' gradients   weights'"
    );
    let kinds: &[&[&str]] = if Instructions::Avx512.are_here() { &[&[], &["avx2"]] } else { &[&[]] };
    for size in ["S", "M"] {
        for options in kinds {
            let mut shares = Times::new();
            for _ in 0..ROUNDS {
                let mut command = cargo();
                command.args(["bench", "--quiet", "-p", "keepstep-numerics", "--features", "testing"]);
                command.args(["--bench", "matmul", "--", size]).args(*options);
                collect(&mut command, &mut shares)?;
            }
            let name = if options.is_empty() { size.to_owned() } else { format!("{size}, avx2") };
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
