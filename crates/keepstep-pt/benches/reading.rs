//! Reads a large file as a resuming run does: it reads every tensor into one buffer, which compares their checksums, and
//! verifies the rest. `cargo xtask bench` calls it.
//!
//! Arguments: `write FILE MIB`, or `read FILE`, which prints `what number` lines: milliseconds, and the most memory that
//! the process has held.

use keepstep_pt::{Archive, Checksums, Dict, File, Tensor, Value};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

const TENSORS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", path, mebibytes] => write(path, mebibytes.parse()?),
        ["read", path] => read(path),
        _ => {
            eprintln!("reading: run it through `cargo xtask bench`");
            Ok(())
        }
    }
}

fn write(path: &str, mebibytes: usize) -> Result<(), Box<dyn Error>> {
    let len = mebibytes * (1 << 20) / 4 / TENSORS;
    let mut dict = Dict::new();
    for index in 0..TENSORS {
        let values: Vec<f32> = (0..len).map(|at| (at * (index + 1)) as f32).collect();
        dict.insert(format!("tensor{index}"), Tensor::from_slice(&values, vec![len]));
    }
    Ok(Archive::new(&Value::Dict(dict)).write_to(&mut std::fs::File::create(path)?)?)
}

fn read(path: &str) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let file = File::open(path)?;
    let dict = file.value().as_dict().ok_or("a dict")?;
    let tensors: Vec<&Tensor> = dict.iter().filter_map(|(_, value)| value.as_tensor()).collect();
    let mut state = vec![0.0_f32; tensors.iter().map(|tensor| tensor.num_elements()).sum()];
    let mut rest = state.as_mut_slice();
    for tensor in tensors {
        let (part, after) = rest.split_at_mut(tensor.num_elements());
        tensor.read_into(part)?;
        rest = after;
    }
    assert_eq!(file.verify_rest()?, Checksums::Verified);
    println!("load {:.1}", start.elapsed().as_secs_f64() * 1e3);
    println!("state {:.1}", size_of_val(state.as_slice()) as f64 / f64::from(1 << 20));
    if let Some(peak) = peak_mebibytes() {
        println!("peak {peak:.1}");
    }
    let len = state.len();
    drop(state);
    let start = Instant::now();
    assert_eq!(File::open(path)?.verify_at_once()?, Checksums::Verified);
    println!("verify {:.1}", start.elapsed().as_secs_f64() * 1e3);
    println!("touch {:.1}", touch(len).as_secs_f64() * 1e3);
    Ok(())
}

/// The time to touch as much new memory, without reading anything: the lower bound.
fn touch(len: usize) -> Duration {
    const PAGE: usize = 4096 / 4;
    let start = Instant::now();
    let mut memory = vec![0.0_f32; len];
    // The reader uses as many threads.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    std::thread::scope(|scope| {
        for part in memory.chunks_mut(len.div_ceil(threads)) {
            scope.spawn(|| part.iter_mut().step_by(PAGE).for_each(|value| *value = black_box(1.0)));
        }
    });
    black_box(&memory);
    start.elapsed()
}

/// The peak memory of this process, from the system.
fn peak_mebibytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}
