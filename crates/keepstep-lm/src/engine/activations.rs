//! The arena: everything that a micro-batch leaves behind between forward and backward, allocated once.

use super::head;
use super::layer_norm::Statistics;
use crate::model::ModelConfig;

/// The buffers of one micro-batch of at most `rows` tokens.
pub(super) struct Activations {
    /// The input of each block, and the output of the last: `[rows, n_embd]`.
    pub(super) residual: Vec<Vec<f32>>,
    /// Of every block, or of the one at hand where they are computed again.
    pub(super) blocks: Vec<Block>,
    pub(super) ln_f: Vec<f32>,
    pub(super) ln_f_statistics: Vec<Statistics>,
    pub(super) logits: Vec<f32>,
    pub(super) scratch: Scratch,
}

/// What one block computes.
pub(super) struct Block {
    pub(super) ln_1: Vec<f32>,
    pub(super) ln_1_statistics: Vec<Statistics>,
    pub(super) qkv: Vec<f32>,
    pub(super) attention: Vec<f32>,
    /// The residual stream between attention and MLP.
    pub(super) middle: Vec<f32>,
    pub(super) ln_2: Vec<f32>,
    pub(super) ln_2_statistics: Vec<Statistics>,
    pub(super) fc: Vec<f32>,
    pub(super) gelu: Vec<f32>,
}

/// Buffers that hold nothing from one step to the next.
pub(super) struct Scratch {
    /// `[rows, 3 * n_embd]`, by heads.
    pub(super) heads: Vec<f32>,
    /// The gradient of the residual stream.
    pub(super) d_residual: Vec<f32>,
    pub(super) d_width: Vec<f32>,
    pub(super) d_attention: Vec<f32>,
    pub(super) d_qkv: Vec<f32>,
    pub(super) d_inner: Vec<f32>,
}

impl Activations {
    /// The bytes of all its buffers.
    pub(super) fn len_bytes(model: &ModelConfig, rows: usize, recompute: bool) -> u64 {
        let [rows, width, inner] = [rows, model.n_embd, model.n_inner()].map(|size| size as u64);
        let statistics = size_of::<Statistics>() as u64;
        let block = 4 * (7 * width + 2 * inner) + 2 * statistics;
        let num_blocks = if recompute { 1 } else { model.n_layer as u64 };
        let scratch = 4 * (9 * width + inner);
        let residual = 4 * (model.n_layer as u64 + 1) * width;
        let last = 4 * width + statistics;
        let logits = 4 * rows.min(head::BLOCK as u64) * model.vocab_size as u64;
        rows * (residual + num_blocks * block + last + scratch) + logits
    }

    pub(super) fn new(model: &ModelConfig, rows: usize, recompute: bool) -> Activations {
        let buffer = |cols: usize| vec![0.0_f32; rows * cols];
        let statistics = || vec![Statistics::default(); rows];
        let (width, inner) = (model.n_embd, model.n_inner());
        let block = || Block {
            ln_1: buffer(width),
            ln_1_statistics: statistics(),
            qkv: buffer(3 * width),
            attention: buffer(width),
            middle: buffer(width),
            ln_2: buffer(width),
            ln_2_statistics: statistics(),
            fc: buffer(inner),
            gelu: buffer(inner),
        };
        let num_blocks = if recompute { 1 } else { model.n_layer };
        Activations {
            residual: (0..=model.n_layer).map(|_| buffer(width)).collect(),
            blocks: (0..num_blocks).map(|_| block()).collect(),
            ln_f: buffer(width),
            ln_f_statistics: statistics(),
            logits: vec![0.0; rows.min(head::BLOCK) * model.vocab_size],
            scratch: Scratch {
                heads: buffer(3 * width),
                d_residual: buffer(width),
                d_width: buffer(width),
                d_attention: buffer(width),
                d_qkv: buffer(3 * width),
                d_inner: buffer(inner),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_that_is_stated_is_the_size_that_is_taken() {
        let model = ModelConfig {
            vocab_size: 300,
            block_size: 8,
            n_layer: 3,
            n_head: 2,
            n_embd: 10,
            dropout: 0.0,
            layer_norm_epsilon: 1e-5,
        };
        for (rows, recompute) in [(24, false), (24, true), (400, false)] {
            let Activations { residual, blocks, ln_f, ln_f_statistics, logits, scratch } =
                Activations::new(&model, rows, recompute);
            let Scratch { heads, d_residual, d_width, d_attention, d_qkv, d_inner } = scratch;
            let mut floats =
                [ln_f, logits, heads, d_residual, d_width, d_attention, d_qkv, d_inner].concat().len();
            let mut statistics = ln_f_statistics.len();
            floats += residual.concat().len();
            for block in blocks {
                let Block { ln_1, ln_1_statistics, qkv, attention, middle, ln_2, ln_2_statistics, fc, gelu } =
                    block;
                floats += [ln_1, qkv, attention, middle, ln_2, fc, gelu].concat().len();
                statistics += ln_1_statistics.len() + ln_2_statistics.len();
            }
            let taken = floats * size_of::<f32>() + statistics * size_of::<Statistics>();
            assert_eq!(
                Activations::len_bytes(&model, rows, recompute),
                taken as u64,
                "{rows} rows, {recompute}"
            );
        }
    }
}
