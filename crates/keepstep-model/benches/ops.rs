//! Measures the operations of a block that are no matmuls, each next to its floor, on one thread.
//!
//! Arguments: a size (`S` or `M`), and `avx2` to leave AVX-512 out. It prints one line for each operation: nanoseconds
//! for 1,000 elements, and those of its floor. LayerNorm's floor reads and writes the same rows and computes nothing;
//! GELU's and softmax's computes the same exponentials of numbers in the first-level cache, and GELU's divisions. Each
//! operation and its floor are timed in turn, and the shortest time of each counts: others disturb it least.

use keepstep_model::ops::affine::Affine;
use keepstep_model::ops::gelu;
use keepstep_model::ops::layer_norm::{self, Statistics};
use keepstep_model::ops::softmax::{RowSoftmax, online};
use keepstep_numerics::math::exp;
use keepstep_numerics::vectorized;
use std::hint::black_box;
use std::time::Instant;

/// Rows that a thread takes through a block at a time.
const ROWS: usize = 256;

/// Keys of a block of scores.
const KEYS: usize = 64;

/// Numbers of the floors' exponentials: they stay in the first-level cache.
const NEAR: usize = 2048;

const ROUNDS: usize = 200;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let width = match arguments.first().map(String::as_str) {
        Some("S") => 128,
        Some("M") => 384,
        _ => return eprintln!("ops: run it through `cargo xtask bench`"),
    };
    if arguments.iter().any(|argument| argument == "avx2") {
        keepstep_numerics::testing::without_avx512();
    }
    layer_norms(width);
    gelus(4 * width);
    softmaxes();
}

fn layer_norms(width: usize) {
    let (x, weight, bias) = (numbers(ROWS * width), numbers(width), numbers(width));
    let affine = Affine { weight: &weight[..], bias: &bias[..] };
    let mut out = x.clone();
    let mut other = x.clone();
    let mut statistics = vec![Statistics::default(); ROWS];
    compare(
        "layer_norm",
        x.len(),
        &mut || layer_norm::forward(&mut out, &mut statistics, black_box(&x), &affine, 1e-5),
        &mut || copy(&mut other, black_box(&x)),
    );
    let dout = numbers(x.len());
    let (mut dweight, mut dbias) = (weight.clone(), bias.clone());
    let mut dx = x.clone();
    compare(
        "layer_norm_backward",
        x.len(),
        &mut || {
            let dout = black_box(&dout);
            layer_norm::backward(&mut dx, dout, &x, &statistics, &weight, &mut dweight, &mut dbias);
        },
        &mut || add_both(&mut other, black_box(&dout), &x),
    );
}

fn gelus(width: usize) {
    let x = numbers(ROWS * width);
    let (mut y, mut near) = (x.clone(), numbers(NEAR));
    compare("gelu", x.len(), &mut || gelu::gelu(&mut y, black_box(&x)), &mut || {
        (0..x.len() / NEAR).for_each(|_| logistic(black_box(&mut near)));
    });
    let mut dx = x.clone();
    compare(
        "gelu_backward",
        x.len(),
        &mut || {
            // Gradients grow over and over otherwise.
            black_box(&mut dx)[0] = 0.5;
            gelu::backward(&mut dx, &mut y, black_box(&x));
        },
        &mut || (0..x.len() / NEAR).for_each(|_| logistic(black_box(&mut near))),
    );
}

/// Blocks on the diagonal, where row r sees r + 1 keys, and whole ones.
fn softmaxes() {
    let scores = numbers(KEYS * KEYS);
    let (mut block, mut sums, mut near) = (scores.clone(), numbers(KEYS * 32), numbers(NEAR));
    for (name, is_diagonal, seen) in
        [("softmax_diagonal", true, KEYS * (KEYS + 1) / 2), ("softmax_whole", false, KEYS * KEYS)]
    {
        let mut running = vec![RowSoftmax::EMPTY; KEYS];
        compare(
            name,
            seen,
            &mut || {
                block.copy_from_slice(black_box(&scores));
                running.fill(RowSoftmax::EMPTY);
                online(&mut block, KEYS, is_diagonal, 0.125, &mut running, &mut sums);
            },
            &mut || {
                let mut left = seen;
                while left > 0 {
                    exponentials(&mut black_box(&mut near)[..left.min(NEAR)]);
                    left -= left.min(NEAR);
                }
            },
        );
    }
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|index| (index * 37 % 101) as f32 * 0.04 - 2.0).collect()
}

/// Prints the time of an operation on this many elements, and that of its floor.
fn compare(name: &str, elements: usize, operation: &mut dyn FnMut(), floor: &mut dyn FnMut()) {
    let mut best = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        best[0] = best[0].min(seconds(operation));
        best[1] = best[1].min(seconds(floor));
    }
    let [time, floor] = best.map(|seconds: f64| seconds * 1e12 / elements as f64);
    println!("{name} {time:.1}\n{name}_floor {floor:.1}");
}

fn seconds(work: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

vectorized! {
    fn copy(to: &mut [f32], from: &[f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    }
}

vectorized! {
    fn add_both(to: &mut [f32], one: &[f32], other: &[f32]) {
        for ((to, one), other) in to.iter_mut().zip(one).zip(other) {
            *to += one + other;
        }
    }
}

vectorized! {
    fn exponentials(values: &mut [f32]) {
        for value in values {
            *value = exp(*value);
        }
    }
}

vectorized! {
    fn logistic(values: &mut [f32]) {
        for value in values {
            *value = 1.0 / (1.0 + exp(*value));
        }
    }
}
