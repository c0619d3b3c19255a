//! The models, parameters and tokens that the checks compute.

use crate::gpt2::{Gpt2Config, initial_parameters};
use crate::ops::dropout::DropoutKey;
use keepstep::rng::{Purpose, Stream};

/// The dropout key of most checks.
pub(crate) const KEY: DropoutKey = DropoutKey { seed: 5, global_step: 17, micro_batch: 2 };

/// A model small enough for the reference.
pub(crate) fn small(dropout: f64) -> Gpt2Config {
    Gpt2Config {
        vocab_size: 11,
        block_size: 5,
        n_layer: 2,
        n_head: 2,
        n_embd: 6,
        dropout,
        layer_norm_epsilon: 1e-5,
    }
}

/// A model small enough for a test of its training state alone.
#[cfg(test)]
pub(crate) fn tiny() -> Gpt2Config {
    Gpt2Config { vocab_size: 5, block_size: 3, n_layer: 1, n_head: 1, n_embd: 4, ..small(0.0) }
}

/// Random parameters that differ from the initial ones: every bias and every weight must affect the result.
pub(crate) fn parameters(model: &Gpt2Config) -> Vec<f32> {
    // Wide models saturate unless their weights are small.
    let scale = (8.0 / model.n_embd as f32).sqrt().min(1.0);
    let stream = Stream::new(9, Purpose::Custom, &[]);
    let mut values = initial_parameters(model, 3);
    for (index, value) in values.iter_mut().enumerate() {
        *value = (*value * 5.0 + (stream.uniform(index as u64) - 0.5) as f32 * 0.4) * scale;
    }
    values
}

/// A small model to decode with, whose sizes are no multiples of a vector, and its parameters. They are large: the
/// tokens' logits differ.
pub fn decodable(vocab_size: usize, block_size: usize) -> (Gpt2Config, Vec<f32>) {
    let model = Gpt2Config { vocab_size, block_size, n_layer: 2, n_head: 3, n_embd: 39, ..small(0.0) };
    let mut parameters = initial_parameters(&model, 1);
    parameters.iter_mut().for_each(|value| *value *= 8.0);
    (model, parameters)
}

/// Random tokens of a micro-batch, `[batch_size, block_size + 1]`.
pub(crate) fn tokens(model: &Gpt2Config, batch_size: usize) -> Vec<u32> {
    let stream = Stream::new(4, Purpose::Custom, &[1]);
    let token = |index: usize| (stream.uniform(index as u64) * model.vocab_size as f64) as u32;
    (0..batch_size * (model.block_size + 1)).map(token).collect()
}
