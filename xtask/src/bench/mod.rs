//! `cargo xtask bench`: figures, measured side by side in one run, because machines are noisy. Ratios are what counts.

mod generate;
mod matmul;
mod measure;
mod ops;
mod program;
mod python;
mod reading;
mod remote;
mod resume;
mod start;
mod store;
mod tokenize;
mod training;

use crate::command::{cargo, run};
use crate::machine;
use std::path::Path;

/// What can be measured, by name, in the order in which all of it is.
const BENCHES: [(&str, Bench); 10] = [
    ("matmul", matmul::run),
    ("ops", ops::run),
    ("training", training::run),
    ("store", store::run),
    ("reading", reading::run),
    ("resume", |_| resume::run()),
    ("tokenize", tokenize::run),
    ("generate", generate::run),
    ("start", start::run),
    ("remote", |_| remote::run()),
];

/// Takes the Python of PyTorch, where the peer is measured too.
type Bench = fn(Option<&Path>) -> Result<(), String>;

pub(crate) fn main(arguments: &[String]) -> Result<(), String> {
    match arguments.split_first() {
        Some((name, rest)) if name == "python" => return python::overhead(rest),
        Some((name, rest)) if name == "resume-peers" => return python::peers(rest),
        Some((name, rest)) if name == "distributed" => return python::distributed(rest),
        Some((name, rest)) if name == "crash-trainers" => return python::crashes(rest),
        _ => {}
    }
    let mut chosen = Vec::new();
    let mut torch = None;
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        match (argument, BENCHES.iter().find(|(name, _)| *name == argument)) {
            ("--against", _) if arguments.next() == Some("torch") => torch = Some(machine::torch_python()?),
            (_, Some((_, bench))) => chosen.push(bench),
            _ => {
                let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
                return Err(format!("bench takes names ({}) and `--against torch`", names.join(", ")));
            }
        }
    }
    if chosen.is_empty() {
        chosen = BENCHES.iter().map(|(_, bench)| bench).collect();
    }
    run(cargo().args([
        "build",
        "--release",
        "--benches",
        "-p",
        "keepstep-pt",
        "-p",
        "keepstep",
        "-p",
        "keepstep-lm",
    ]))?;
    run(cargo().args(["build", "--release", "-p", "keepstep-cli"]))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{threads} threads\n");
    chosen.into_iter().try_for_each(|bench| bench(torch.as_deref()))
}
