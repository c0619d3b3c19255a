//! A whole micro-batch with its products in bf16.

use crate::engine::DropoutKey;
use crate::engine::Engine;
use crate::gpt2::CpuEngine;
use crate::gpt2::layout::initial_parameters;
use crate::gpt2::settings::Gpt2Config;
use keepstep::rng::{Purpose, Stream};
use keepstep_numerics::precision::Precision;

const KEY: DropoutKey = DropoutKey { seed: 11, global_step: 3, micro_batch: 1 };

fn model() -> Gpt2Config {
    Gpt2Config {
        vocab_size: 301,
        block_size: 77,
        n_layer: 2,
        n_head: 3,
        n_embd: 51,
        dropout: 0.1,
        layer_norm_epsilon: 1e-5,
    }
}

fn tokens(model: &Gpt2Config, sequences: usize) -> Vec<u32> {
    let stream = Stream::new(4, Purpose::Custom, &[1]);
    let len = (sequences * (model.block_size + 1)) as u64;
    (0..len).map(|index| (stream.uniform(index) * model.vocab_size as f64) as u32).collect()
}

fn gradient(precision: Precision, threads: usize, recompute: bool) -> (f64, Vec<f32>) {
    let model = model();
    let layout = model.layout();
    let values = initial_parameters(&model, 3);
    let tokens = tokens(&model, 5);
    let mut gradient = vec![0.0; layout.num_parameters()];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let sum = pool.install(|| {
        let mut engine = CpuEngine::new(&model, 5, recompute).with_precision(precision);
        engine.loss_and_gradient(&values, &tokens, KEY, &mut gradient)
    });
    (sum.sum, gradient)
}

#[test]
fn bf16_bits_are_golden_on_any_number_of_threads() {
    let all = [(2, false), (1, false), (3, true), (4, false)];
    for &(threads, recompute) in if keepstep_numerics::testing::is_emulated() { &all[..1] } else { &all } {
        let (sum, gradient) = gradient(Precision::Bf16, threads, recompute);
        let hash = keepstep_numerics::testing::fingerprint(&gradient);
        assert_eq!((sum.to_bits(), hash.as_str()), (GOLDEN.0, GOLDEN.1), "{threads} threads");
    }
}

const GOLDEN: (u64, &str) = (4_657_061_840_071_680_469, "ade1d090883930b9");

/// A product's factors lose all but eight bits: 2^-9 of each at most, less on average.
#[test]
fn gradients_are_those_of_float32_within_bfloat16_s_precision() {
    let (exact_loss, exact) = gradient(Precision::Float32, 2, false);
    let (loss, found) = gradient(Precision::Bf16, 2, false);
    assert!(loss != exact_loss && (loss / exact_loss - 1.0).abs() < 1e-4, "{loss} and {exact_loss}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let layout = model().layout();
    for tensor in layout.tensors() {
        let range = tensor.offset..tensor.offset + tensor.len();
        let (exact, found) = (&exact[range.clone()], &found[range]);
        let distance = norm(&mut exact.iter().zip(found).map(|(one, other)| f64::from(one - other)));
        let length = norm(&mut exact.iter().map(|value| f64::from(*value)));
        assert!(distance < 0.02 * length + 1e-7, "{}: {distance:e} of {length:e}", tensor.name);
    }
}

/// Plain descent on one micro-batch, side by side.
#[test]
fn the_loss_falls_as_in_float32() {
    let model = Gpt2Config { vocab_size: 50, block_size: 24, n_embd: 24, dropout: 0.0, ..model() };
    let layout = model.layout();
    let tokens = tokens(&model, 4);
    let losses = |precision: Precision| {
        let mut values = initial_parameters(&model, 3);
        let mut engine = CpuEngine::new(&model, 4, false).with_precision(precision);
        let mut gradient = vec![0.0; layout.num_parameters()];
        let mut losses = Vec::new();
        for _ in 0..90 {
            losses.push(engine.loss_and_gradient(&values, &tokens, KEY, &mut gradient).mean());
            values.iter_mut().zip(&gradient).for_each(|(value, gradient)| *value -= 0.1 * gradient);
        }
        // Evaluation computes in the same precision: without dropout it is the same pass.
        let trained = engine.loss_and_gradient(&values, &tokens, KEY, &mut gradient).mean();
        assert_eq!(engine.loss(&values, &tokens).mean().to_bits(), trained.to_bits());
        losses.push(trained);
        losses
    };
    let (exact, found) = (losses(Precision::Float32), losses(Precision::Bf16));
    assert!(found[90] < 0.5 * found[0], "{} to {}", found[0], found[90]);
    let exact_first = exact[0];
    for (step, (exact, found)) in exact.iter().zip(&found).enumerate() {
        // Of what there was to learn.
        assert!((found - exact).abs() < 0.03 * exact_first, "{step}: {found} and {exact}");
    }
}
