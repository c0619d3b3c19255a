//! One training update of the two sizes that the documents speak of; `cargo xtask bench` calls it and compares.
//!
//! Arguments: a size (`S`, `M`, or a block size at 4096 tokens a micro-batch), a number of updates, and `bf16` for that
//! precision. It prints milliseconds per update, one line each, the time of the update's matrix products alone, the
//! process's peak of memory beside the sum of what must be held, in MiB, and what the processor could do at most.

use keepstep_lm::config::{OptimizerConfig, Precision};
use keepstep_lm::engine::{CpuEngine, DropoutKey, Engine};
use keepstep_lm::gradient::{GradientTree, clip_coefficient, global_norm};
use keepstep_lm::model::ModelConfig;
use keepstep_lm::numerics::product::{Into, Matrix, MatrixMut, product};
use keepstep_lm::optimizer::{AdamW, Buffers, ParamGroup};
use keepstep_lm::parameters::{Layout, initial_parameters};
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (size, updates, precision) = match arguments.as_slice() {
        [size, updates] => (size, updates, Precision::Float32),
        [size, updates, precision] if precision == "bf16" => (size, updates, Precision::Bf16),
        _ => {
            eprintln!("training: run it through `cargo xtask bench`");
            return;
        }
    };
    let (model, batch_size) = match size.as_str() {
        "S" => (model(4, 4, 128, 64), 12),
        "M" => (model(6, 6, 384, 256), 16),
        block_size => {
            let block_size = block_size.parse().unwrap_or(64);
            (model(2, 4, 128, block_size), 4096 / block_size)
        }
    };
    let updates: u64 = updates.parse().unwrap_or(1);
    train(&model, batch_size, updates, precision);
    // Weights, one gradient and two moments, and the engine's buffers.
    let flat = 4 * 4 * Layout::new(&model).num_parameters() as u64;
    let held = flat + CpuEngine::len_bytes(&model, batch_size, false);
    println!("held {:.1}", held as f64 / f64::from(1 << 20));
    if let Some(peak) = peak_memory() {
        println!("peak {peak:.1}");
    }
    for _ in 0..2 {
        let [forward, inputs, weights] = products(&model, batch_size);
        println!("products {:.3}", forward + inputs + weights);
        println!("forward {forward:.3}\ninputs {inputs:.3}\nweights {weights:.3}");
    }
    println!("operations {:.3}", operations(&model, batch_size));
    if let Some(peak) = multiply_adds() {
        println!("peak_rate {peak:.3}");
    }
}

/// Billions of operations of the same products, a multiply-add as two.
fn operations(model: &ModelConfig, batch_size: usize) -> f64 {
    let weights = 12 * model.n_layer * model.n_embd * model.n_embd + model.n_embd * model.vocab_size;
    6.0 * (weights * batch_size * model.block_size) as f64 / 1e9
}

/// The most that all threads can do of them in a second, in billions: multiply-adds in registers and nothing else.
#[cfg(target_arch = "x86_64")]
fn multiply_adds() -> Option<f64> {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm256_storeu_ps};
    const ROUNDS: usize = 20_000_000;
    /// As many chains as hide the latency.
    const CHAINS: usize = 12;
    #[target_feature(enable = "avx2,fma")]
    fn chains() -> [f32; 8] {
        let (factor, mut sums) = (_mm256_set1_ps(0.999), [_mm256_set1_ps(1.0); CHAINS]);
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        let mut out = [0.0; 8];
        for sum in sums {
            // SAFETY: there is room for the eight.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
            std::hint::black_box(&out);
        }
        out
    }
    if std::arch::is_x86_feature_detected!("avx512f")
        || !(std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma"))
    {
        return None;
    }
    let start = Instant::now();
    // SAFETY: the processor has both.
    let results = rayon::broadcast(|_| unsafe { chains() });
    let operations = results.len() * ROUNDS * CHAINS * 16;
    Some(operations as f64 / start.elapsed().as_secs_f64() / 1e9)
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_adds() -> Option<f64> {
    None
}

/// The most memory that this process has held, in MiB.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

fn model(n_layer: usize, n_head: usize, n_embd: usize, block_size: usize) -> ModelConfig {
    ModelConfig {
        vocab_size: 256,
        block_size,
        n_layer,
        n_head,
        n_embd,
        dropout: 0.0,
        layer_norm_epsilon: 1e-5,
    }
}

fn train(model: &ModelConfig, batch_size: usize, updates: u64, precision: Precision) {
    let layout = Layout::new(model);
    let len = layout.num_parameters();
    let mut parameters = initial_parameters(&layout, 1);
    let (mut exp_avg, mut exp_avg_sq) = (vec![0.0; len], vec![0.0; len]);
    let mut engine = CpuEngine::new(model, batch_size, false).with_precision(precision);
    let mut tree = GradientTree::new(len);
    let optimizer = AdamW::new(ParamGroup::of_config(
        &OptimizerConfig { learning_rate: 1e-4, ..OptimizerConfig::default() },
        &layout,
    ));
    let mut state = 1_u32;
    for update in 0..updates {
        let tokens: Vec<u32> = (0..batch_size * (model.block_size + 1))
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) % 256
            })
            .collect();
        let start = Instant::now();
        let key = DropoutKey { seed: 1, global_step: update, micro_batch: 0 };
        tree.add(|gradient| engine.loss_and_gradient(&parameters, &tokens, key, gradient));
        tree.mean(|gradient| {
            let clip = clip_coefficient(global_norm(gradient), 1.0);
            let buffers =
                Buffers { parameters: &mut parameters, exp_avg: &mut exp_avg, exp_avg_sq: &mut exp_avg_sq };
            optimizer.step(&layout, buffers, gradient, clip, 1.0, update + 1);
        });
        println!("update {:.3}", start.elapsed().as_secs_f64() * 1e3);
    }
}

/// Milliseconds of the matrix products of one update's linear layers and head: forward, for the gradients of their inputs,
/// and for those of their weights.
fn products(model: &ModelConfig, batch_size: usize) -> [f64; 3] {
    let rows = batch_size * model.block_size;
    let width = model.n_embd;
    let mut total = [0.0; 3];
    for (ins, outs, count) in [
        (width, 3 * width, model.n_layer),
        (width, width, model.n_layer),
        (width, 4 * width, model.n_layer),
        (4 * width, width, model.n_layer),
        (width, model.vocab_size, 1),
    ] {
        let (x, y, weight) = (vec![0.5; rows * ins], vec![0.5; rows * outs], vec![0.5; ins * outs]);
        let (mut x_out, mut y_out, mut weight_out) = (x.clone(), y.clone(), weight.clone());
        for _ in 0..count {
            let (x, y) = (Matrix::new(&x, rows, ins), Matrix::new(&y, rows, outs));
            let weight = Matrix::new(&weight, ins, outs);
            let mut timed = |index: usize, work: &mut dyn FnMut()| {
                let start = Instant::now();
                work();
                total[index] += start.elapsed().as_secs_f64() * 1e3;
            };
            timed(0, &mut || product(MatrixMut::new(&mut y_out, rows, outs), Into::Replace, x, weight));
            timed(1, &mut || {
                product(MatrixMut::new(&mut x_out, rows, ins), Into::Replace, y, weight.transposed());
            });
            timed(2, &mut || {
                product(MatrixMut::new(&mut weight_out, ins, outs), Into::Replace, x.transposed(), y);
            });
        }
    }
    total
}
