//! `cargo xtask`: the project's own commands.
//!
//! - `test` is everything that a change must pass; `.ci/run` calls it and nothing else.
//! - `bench` measures, side by side in one run.
//! - `soak` runs the long forms of the tests of the store and the Python package.
//! - `wheel` builds the Python package for other machines.
//! - `fuzz` and `differential` search for files that the `.pt` reader takes wrongly.
//! - `quickstart` regenerates the quickstart's list of crates and the figures that the README shows.

mod arm;
mod bench;
mod command;
mod deny;
mod fuzz;
mod machine;
mod processor;
mod python;
mod quickstart;
mod soak;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  test [--quick | --python | --all-torch]
                         formatting, clippy, rustdoc and every test; installs what the tests need
                         (--quick leaves out the tests that need PyTorch, TensorBoard, a browser or emulated ARM, and says so; --python runs those of the
                         Python package alone; --all-torch opens the
                         checkpoints and runs the package's tests with an older PyTorch as well, and imports it on ARM)
  bench [NAME...] [--against torch]
                         figures, all or those named (training, store, reading, resume, tokenize, generate, start, remote); with
                         `--against torch` PyTorch or transformers is measured at the same work beside them. The
                         corpus of tokenize has KEEPSTEP_BENCH_MB megabytes, 1000 if that is not set
  bench python [loop] [save] [resume]
                         what the Python package costs per micro-batch, per save and at a resume, next to a bare loop
                         and torch's own savers
  bench resume-peers [usual] [trainer] [exact-trainer] [lightning] [exact-lightning] [keepstep]
                         the same interrupted run in the usual notebook loop, HF Trainer and Lightning without keepstep
                         and with it, and keepstep
  bench crash-trainers [POINTS]
                         crashes at every file event of HF Trainer and Lightning, without keepstep and with it
  bench distributed [PROCESSES...]
                         the fixed sum of gradients over 1, 2, 3 and 4 processes next to stock DDP, with gloo
  soak kill-loop [--kills N] [--seed N]
                         SIGKILL, 10,000 times, of a process that saves, rotates and moves the best
  soak crash-states [--states N] [--seed N] [--round N]
                         a million distinct states in which a crash may leave the disk (--round replays one)
  soak pytorch [--kills N] [--seed N]
                         the Python package's tests marked `soak`: stopped at every update, 100 times SIGKILL
  soak remote [--kills N] [--rounds N] [--seed N]
                         machines that vanish on every object store (30 each), connections that break at every 64 KiB,
                         and the protocol with sampled faults and two writers (100,000 rounds)
  wheel [--here]         wheels of the Python package for x86-64 and aarch64 (--here: x86-64 alone), manylinux_2_28
  fuzz [--minutes N]     the fuzz targets of the .pt reader, all at once, for N minutes each (10)
  differential [FILES]   what the .pt reader makes of generated files (10000), against torch.load
  quickstart --update    the quickstart's list of crates at the versions of Cargo.lock, and the README's figures
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let result = match arguments.first().map(String::as_str) {
        Some("test") => test::run(rest),
        Some("bench") => bench::main(rest),
        Some("soak") => soak::main(rest),
        Some("wheel") => python::wheels(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("differential") => fuzz::differential(rest),
        Some("quickstart") => quickstart::run(rest),
        Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
