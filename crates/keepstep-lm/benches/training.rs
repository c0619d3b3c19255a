//! One training update of the two sizes that the documents speak of; `cargo xtask bench` calls it and compares.
//!
//! Arguments: a size (`S`, `M`, or a block size at 4096 tokens a micro-batch), a number of updates, and `bf16` for that
//! precision. It prints milliseconds per update, one line each, the time of the update's matrix products alone, and the
//! process's peak of memory beside the sum of what must be held, in MiB.

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
        println!("products {:.3}", products(&model, batch_size));
    }
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

/// Milliseconds of one update's matrix products, attention's included at half of its square.
fn products(model: &ModelConfig, batch_size: usize) -> f64 {
    let rows = batch_size * model.block_size;
    let width = model.n_embd;
    let mut total = 0.0;
    for (ins, outs, count) in [
        (width, 3 * width, model.n_layer),
        (width, width, model.n_layer),
        (width, 4 * width, model.n_layer),
        (4 * width, width, model.n_layer),
        (width, model.vocab_size, 1),
    ] {
        let (x, y, weight) = (vec![0.5; rows * ins], vec![0.5; rows * outs], vec![0.5; ins * outs]);
        let (mut x_out, mut y_out, mut weight_out) = (x.clone(), y.clone(), weight.clone());
        let start = Instant::now();
        for _ in 0..count {
            let (x, y) = (Matrix::new(&x, rows, ins), Matrix::new(&y, rows, outs));
            let weight = Matrix::new(&weight, ins, outs);
            product(MatrixMut::new(&mut y_out, rows, outs), Into::Replace, x, weight);
            product(MatrixMut::new(&mut x_out, rows, ins), Into::Replace, y, weight.transposed());
            product(MatrixMut::new(&mut weight_out, ins, outs), Into::Replace, x.transposed(), y);
        }
        total += start.elapsed().as_secs_f64();
    }
    total * 1e3
}
