//! The buffers of one micro-batch: the activations that forward leaves for backward, and scratch. Allocated once.

use crate::gpt2::packed;
use crate::gpt2::settings::Gpt2Config;
use crate::ops::cross_entropy;
use crate::ops::layer_norm::Statistics;
use crate::ops::rows;
use crate::ops::softmax::RowSoftmax;
use keepstep_numerics::matmul::AlignedBuffer;

/// The buffers of one micro-batch of at most `rows` tokens.
pub(crate) struct Activations {
    /// The input of each block, and the output of the last: `[rows, n_embd]`.
    pub(crate) residual: Vec<Vec<f32>>,
    /// The buffers of every block. With recomputation, those of the one block that is being computed.
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_f: Vec<f32>,
    pub(crate) ln_f_statistics: Vec<Statistics>,
    pub(crate) head: cross_entropy::Buffers,
    pub(crate) scratch: Scratch,
}

/// The activations of one block that the backward pass needs. It computes the outputs of LayerNorm and GELU again.
pub(crate) struct Block {
    pub(crate) ln_1_statistics: Vec<Statistics>,
    /// Queries, keys and values. The backward pass replaces them by their gradients.
    pub(crate) qkv: Vec<f32>,
    pub(crate) softmax: Vec<RowSoftmax>,
    pub(crate) attention: Vec<f32>,
    /// The residual stream between attention and MLP.
    pub(crate) middle: Vec<f32>,
    pub(crate) ln_2_statistics: Vec<Statistics>,
    /// The output of the MLP's first layer. The backward pass replaces it by its gradient.
    pub(crate) fc: Vec<f32>,
}

/// Buffers that carry nothing from one micro-batch to the next.
pub(crate) struct Scratch {
    pub(crate) ln_1: Vec<f32>,
    pub(crate) ln_2: Vec<f32>,
    pub(crate) gelu: Vec<f32>,
    /// The gradient of the residual stream.
    pub(crate) d_residual: Vec<f32>,
    /// The gradient of the MLP's output, with the dropout mask applied.
    pub(crate) d_mlp: Vec<f32>,
    /// The gradient of the attention's projection, with the dropout mask applied.
    pub(crate) d_projection: Vec<f32>,
    pub(crate) d_attention: Vec<f32>,
    /// Column sums of blocks of rows: `[rows / 64, sums]`.
    pub(crate) sums: Vec<f32>,
    /// One block's packed weights.
    pub(crate) packed: AlignedBuffer,
}

/// Columns of [`Scratch::sums`]: the gradients of all vectors of a block, in this order.
pub(crate) struct SumColumns {
    pub(crate) ln_1_weight: usize,
    pub(crate) ln_1_bias: usize,
    pub(crate) attn_c_attn: usize,
    pub(crate) attn_c_proj: usize,
    pub(crate) ln_2_weight: usize,
    pub(crate) ln_2_bias: usize,
    pub(crate) mlp_c_fc: usize,
    pub(crate) mlp_c_proj: usize,
    pub(crate) all: usize,
}

impl SumColumns {
    pub(crate) fn new(model: &Gpt2Config) -> SumColumns {
        let (width, inner) = (model.n_embd, model.n_inner());
        SumColumns {
            ln_1_weight: 0,
            ln_1_bias: width,
            attn_c_attn: 2 * width,
            attn_c_proj: 5 * width,
            ln_2_weight: 6 * width,
            ln_2_bias: 7 * width,
            mlp_c_fc: 8 * width,
            mlp_c_proj: 8 * width + inner,
            all: 9 * width + inner,
        }
    }
}

impl Activations {
    pub(crate) fn new(model: &Gpt2Config, rows: usize, recompute: bool) -> Activations {
        let buffer = |cols: usize| vec![0.0_f32; rows * cols];
        let statistics = || vec![Statistics::default(); rows];
        let (width, inner) = (model.n_embd, model.n_inner());
        let num_heads = model.attention().num_heads(rows);
        let block = || Block {
            ln_1_statistics: statistics(),
            qkv: buffer(3 * width),
            softmax: vec![RowSoftmax::EMPTY; num_heads * model.block_size],
            attention: buffer(width),
            middle: buffer(width),
            ln_2_statistics: statistics(),
            fc: buffer(inner),
        };
        let num_blocks = if recompute { 1 } else { model.n_layer };
        let mut packed = AlignedBuffer::new();
        packed.grow(packed::room_len(model));
        Activations {
            residual: (0..=model.n_layer).map(|_| buffer(width)).collect(),
            blocks: (0..num_blocks).map(|_| block()).collect(),
            ln_f: buffer(width),
            ln_f_statistics: statistics(),
            head: cross_entropy::Buffers::new(model.vocab_size, rows),
            scratch: Scratch {
                ln_1: buffer(width),
                ln_2: buffer(width),
                gelu: buffer(inner),
                d_residual: buffer(width),
                d_mlp: buffer(width),
                d_projection: buffer(width),
                d_attention: buffer(width),
                sums: vec![0.0; rows.div_ceil(rows::BLOCK) * SumColumns::new(model).all],
                packed,
            },
        }
    }

    /// Computes the bytes of all buffers.
    pub(crate) fn len_bytes(model: &Gpt2Config, rows: usize, recompute: bool) -> u64 {
        let (width, inner) = (model.n_embd, model.n_inner());
        let float = size_of::<f32>();
        let statistics = size_of::<Statistics>();
        let softmax = model.n_head * size_of::<RowSoftmax>();
        let block = (5 * width + inner) * float + 2 * statistics + softmax;
        let num_blocks = if recompute { 1 } else { model.n_layer };
        let residual = (model.n_layer + 1) * width * float;
        let last = width * float + statistics;
        let scratch = (6 * width + inner) * float;
        let sums = rows.div_ceil(rows::BLOCK) * SumColumns::new(model).all * float;
        let by_row = residual + num_blocks * block + last + scratch;
        let packed = packed::room_len(model) * float;
        (rows * by_row + sums + packed + cross_entropy::Buffers::len_bytes(model.vocab_size, rows)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_that_are_held() {
        fn held<T>(values: &[T]) -> usize {
            size_of_val(values)
        }
        let model = Gpt2Config {
            vocab_size: 300,
            block_size: 70,
            n_layer: 3,
            n_head: 2,
            n_embd: 32,
            dropout: 0.0,
            layer_norm_epsilon: 1e-5,
        };
        for (rows, recompute) in [(70, false), (700, false), (700, true)] {
            let all = Activations::new(&model, rows, recompute);
            let mut total: usize = all.residual.iter().map(|values| held(values)).sum();
            for block in &all.blocks {
                let Block { ln_1_statistics, qkv, softmax, attention, middle, ln_2_statistics, fc } = block;
                total += held(ln_1_statistics) + held(qkv) + held(softmax) + held(attention);
                total += held(middle) + held(ln_2_statistics) + held(fc);
            }
            let Scratch { ln_1, ln_2, gelu, d_residual, d_mlp, d_projection, d_attention, sums, packed } =
                &all.scratch;
            total += packed.len() * size_of::<f32>();
            for values in [ln_1, ln_2, gelu, d_residual, d_mlp, d_projection, d_attention, sums] {
                total += held(values);
            }
            total += held(&all.ln_f) + held(&all.ln_f_statistics) + all.head.held();
            assert_eq!(
                Activations::len_bytes(&model, rows, recompute),
                total as u64,
                "{rows} rows, {recompute}"
            );
        }
    }
}
