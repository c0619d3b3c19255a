//! The buffers of one micro-batch: the activations that forward leaves for backward, and scratch. Allocated once.

use crate::gpt2::packed;
use crate::gpt2::settings::Gpt2Config;
use crate::ops::cross_entropy;
use crate::ops::layer_norm::Statistics;
use crate::ops::rows::{self, RowBuffer, row_buffers};
use crate::ops::softmax::RowSoftmax;
use keepstep_numerics::matmul::AlignedBuffer;

/// The buffers of one micro-batch of at most `rows` tokens. With recomputation, a list by blocks holds one element: that
/// of the block that is being computed.
pub(crate) struct Activations {
    /// The input of each block, and the output of the last: `[rows, n_embd]`.
    pub(crate) residual: Vec<RowBuffer<f32>>,
    pub(crate) before_attention: Vec<BeforeAttention>,
    /// The softmax of each block's attention: `[heads, block_size]`.
    pub(crate) softmax: Vec<Vec<RowSoftmax>>,
    pub(crate) after_attention: Vec<AfterAttention>,
    pub(crate) last: LastNorm,
    pub(crate) head: cross_entropy::Buffers,
    pub(crate) scratch: Scratch,
    pub(crate) row_gradients: RowGradients,
    /// One block's packed weights.
    pub(crate) packed: AlignedBuffer,
}

row_buffers! {
    /// What the backward pass needs from before a block's attention. It computes the output of the LayerNorm again.
    BeforeAttention, BeforeAttentionRows {
        ln_1_statistics: Statistics,
        /// Queries, keys and values. The backward pass replaces them by their gradients.
        qkv: f32,
    }
}

row_buffers! {
    /// What the backward pass needs from a block's attention on. It computes the outputs of LayerNorm and GELU again.
    AfterAttention, AfterAttentionRows {
        /// The output of the attention.
        attention: f32,
        /// The residual stream between attention and MLP.
        middle: f32,
        ln_2_statistics: Statistics,
        /// The output of the MLP's first layer. The backward pass replaces it by its gradient.
        fc: f32,
    }
}

row_buffers! {
    /// The last LayerNorm.
    LastNorm, LastNormRows {
        statistics: Statistics,
        out: f32,
    }
}

row_buffers! {
    /// The outputs of operations that the backward pass computes again.
    Scratch, ScratchRows {
        ln_1: f32,
        ln_2: f32,
        gelu: f32,
    }
}

row_buffers! {
    /// The gradients of a block's rows, in the backward pass.
    RowGradients, GradientRows {
        /// The gradient of the residual stream.
        d_residual: f32,
        /// The gradient of the MLP's output, with the dropout mask applied.
        d_mlp: f32,
        /// The gradient of the attention's projection, with the dropout mask applied.
        d_projection: f32,
        d_attention: f32,
        /// Column sums of blocks of rows: see [`SumColumns`].
        sums: f32,
    }
}

/// What the backward pass writes for some rows.
pub(crate) type BackwardRows<'a> = (ScratchRows<'a>, GradientRows<'a>);

/// Columns of [`RowGradients::sums`]: the gradients of all vectors of a block, in this order.
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
        let buffer = |cols: usize| RowBuffer::new(rows, cols, 0.0_f32);
        let statistics = || RowBuffer::new(rows, 1, Statistics::default());
        let (width, inner) = (model.n_embd, model.n_inner());
        let num_heads = model.attention().num_heads(rows);
        let before_attention = || BeforeAttention { ln_1_statistics: statistics(), qkv: buffer(3 * width) };
        let softmax = || vec![RowSoftmax::EMPTY; num_heads * model.block_size];
        let after_attention = || AfterAttention {
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
            before_attention: (0..num_blocks).map(|_| before_attention()).collect(),
            softmax: (0..num_blocks).map(|_| softmax()).collect(),
            after_attention: (0..num_blocks).map(|_| after_attention()).collect(),
            last: LastNorm { statistics: statistics(), out: buffer(width) },
            head: cross_entropy::Buffers::new(model.vocab_size, rows),
            scratch: Scratch { ln_1: buffer(width), ln_2: buffer(width), gelu: buffer(inner) },
            row_gradients: RowGradients {
                d_residual: buffer(width),
                d_mlp: buffer(width),
                d_projection: buffer(width),
                d_attention: buffer(width),
                sums: RowBuffer::by_block(rows, SumColumns::new(model).all, 0.0),
            },
            packed,
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
            let mut total: usize = all.residual.iter().map(RowBuffer::held).sum();
            total += all.before_attention.iter().map(BeforeAttention::held).sum::<usize>();
            total += all.softmax.iter().map(|softmax| size_of_val(&softmax[..])).sum::<usize>();
            total += all.after_attention.iter().map(AfterAttention::held).sum::<usize>();
            total += all.last.held() + all.head.held();
            total += all.scratch.held() + all.row_gradients.held();
            total += all.packed.len() * size_of::<f32>();
            assert_eq!(
                Activations::len_bytes(&model, rows, recompute),
                total as u64,
                "{rows} rows, {recompute}"
            );
        }
    }
}
