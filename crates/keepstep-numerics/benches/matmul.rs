//! Measures the matmuls of a model's linear layers on one thread, next to the processor's own peak of multiply-adds.
//!
//! Arguments: a size (`S` or `M`), and `avx2` to leave AVX-512 out. It prints one line each for the share of the peak
//! that the forward products, those for the inputs' gradients and those for the weights' gradients reach, in percent.
//! Each product and the peak are timed in turn, and the shortest time of each counts: others disturb it least.

use keepstep_numerics::matmul::{
    Accumulate, AlignedBuffer, MatmulKind, MatmulTask, Matrix, MatrixMut, PackTask, Packing,
};
use keepstep_numerics::precision::Precision;
use std::time::{Duration, Instant};

/// Rows that a thread takes through a block at a time.
const ROWS: usize = 256;

struct Size {
    width: usize,
    rows: usize,
    blocks: usize,
    vocab_size: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let size = match arguments.first().map(String::as_str) {
        Some("S") => Size { width: 128, rows: 12 * 64, blocks: 4, vocab_size: 256 },
        Some("M") => Size { width: 384, rows: 16 * 256, blocks: 6, vocab_size: 256 },
        _ => return eprintln!("matmul: run it through `cargo xtask bench`"),
    };
    if arguments.iter().any(|argument| argument == "avx2") {
        keepstep_numerics::testing::without_avx512();
    }
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(30);
    let mut phases = [Sum::default(); 3];
    let width = size.width;
    for (name, ins, outs, count) in [
        ("attn_c_attn", width, 3 * width, size.blocks),
        ("attn_c_proj", width, width, size.blocks),
        ("mlp_c_fc", width, 4 * width, size.blocks),
        ("mlp_c_proj", 4 * width, width, size.blocks),
        ("lm_head", width, size.vocab_size, 1),
    ] {
        let shares = measure(size.rows, ins, outs, rounds);
        print!("{name}");
        for (phase, share) in phases.iter_mut().zip(shares) {
            print!(" {:.1}", 100.0 * share);
            let operations = (ins * outs * count) as f64;
            phase.operations += operations;
            phase.time += operations / share;
        }
        println!();
    }
    for (name, phase) in ["forward", "inputs", "weights"].into_iter().zip(phases) {
        println!("{name} {:.2}", 100.0 * phase.operations / phase.time);
    }
}

/// The products of a phase: their operations, and the time that they take in units of the peak.
#[derive(Clone, Copy, Default)]
struct Sum {
    operations: f64,
    time: f64,
}

/// The shares of the peak of one layer's three products, as a pass computes them.
fn measure(rows: usize, ins: usize, outs: usize, rounds: usize) -> [f64; 3] {
    let kind = MatmulKind::detect(Precision::Float32);
    let (x, dy, weight) = (vec![0.5; rows * ins], vec![0.5; rows * outs], vec![0.5; ins * outs]);
    let (mut dx, mut y, mut dweight) = (x.clone(), dy.clone(), weight.clone());
    let bias = vec![0.5; outs];
    let weight = Matrix::new(&weight, ins, outs);
    let mut best = [Duration::MAX; 3];
    let mut rate = 0.0_f64;
    let mut buffer = AlignedBuffer::new();
    for _ in 0..rounds {
        rate = rate.max(peak());
        let forward = Accumulate::Bias(&bias);
        best[0] = best[0].min(by_rows(&mut y, forward, &x, weight, &mut buffer));
        best[1] = best[1].min(by_rows(&mut dx, Accumulate::Replace, &dy, weight.transposed(), &mut buffer));
        let start = Instant::now();
        let out = MatrixMut::new(&mut dweight, ins, outs);
        let lhs = Matrix::new(&x, rows, ins).transposed();
        kind.run(MatmulTask::new(out, Accumulate::Replace, lhs, Matrix::new(&dy, rows, outs)));
        best[2] = best[2].min(start.elapsed());
    }
    best.map(|time| (2 * rows * ins * outs) as f64 / rate / time.as_secs_f64())
}

/// Times the product of some rows at a time with a weight that is packed already, as in a pass.
fn by_rows(
    out: &mut [f32],
    accumulate: Accumulate<'_>,
    lhs: &[f32],
    rhs: Matrix<'_>,
    buffer: &mut AlignedBuffer,
) -> Duration {
    let kind = MatmulKind::detect(Precision::Float32);
    let (inner, cols) = (rhs.rows(), rhs.transposed().rows());
    let mut tasks = Vec::new();
    let packed = kind.packing().map(|packing| {
        buffer.grow(Packing::max_len(inner, cols));
        packing.pack(buffer.as_mut_floats(), rhs, &mut tasks)
    });
    tasks.into_iter().for_each(PackTask::run);
    let start = Instant::now();
    for (out, lhs) in out.chunks_mut(ROWS * cols).zip(lhs.chunks(ROWS * inner)) {
        let height = lhs.len() / inner;
        let (out, lhs) = (MatrixMut::new(out, height, cols), Matrix::new(lhs, height, inner));
        kind.run(MatmulTask::new(out, accumulate, lhs, rhs).with_packed(packed.as_ref()));
    }
    start.elapsed()
}

/// Measures the processor's rate in operations a second, with multiply-adds in registers only.
fn peak() -> f64 {
    let start = Instant::now();
    let operations = keepstep_numerics::testing::multiply_adds(20_000);
    operations.map_or(f64::NAN, |operations| operations as f64 / start.elapsed().as_secs_f64())
}
