//! The engine on the processor.

use super::activations::{Activations, Block};
use super::attention::Attention;
use super::dropout::{Dropout, Mask, Site};
use super::embedding::{self, Inputs};
use super::{DropoutKey, Engine, LossSum, ROWS, gelu, head, layer_norm, linear};
use crate::model::ModelConfig;
use crate::parameters::{LayerViews, Layout, Views};
use rayon::prelude::*;
use std::sync::Arc;

/// Forward and backward on all threads of the current rayon pool.
pub struct CpuEngine {
    model: ModelConfig,
    /// Shared, so that a pass can hold it beside the engine's buffers.
    layout: Arc<Layout>,
    attention: Attention,
    activations: Activations,
    max_rows: usize,
}

impl CpuEngine {
    /// An engine for micro-batches of at most `batch_size` sequences. With `recompute`, it keeps the input of each
    /// block alone and computes the rest again on the way back: less memory, more time, the same bits.
    pub fn new(model: &ModelConfig, batch_size: usize, recompute: bool) -> CpuEngine {
        let max_rows = batch_size * model.block_size;
        CpuEngine {
            model: *model,
            layout: Arc::new(Layout::new(model)),
            attention: Attention::new(model),
            activations: Activations::new(model, max_rows, recompute),
            max_rows,
        }
    }

    /// The bytes that such an engine takes.
    pub fn len_bytes(model: &ModelConfig, batch_size: usize, recompute: bool) -> u64 {
        Activations::len_bytes(model, batch_size * model.block_size, recompute)
    }

    fn inputs<'a>(&self, tokens: &'a [u32]) -> Inputs<'a> {
        assert_eq!(tokens.len() % (self.model.block_size + 1), 0, "whole sequences");
        let inputs = Inputs::new(tokens, self.model.block_size);
        assert!((1..=self.max_rows).contains(&inputs.rows()), "a micro-batch that fits the engine");
        inputs
    }

    fn epsilon(&self) -> f32 {
        self.model.layer_norm_epsilon as f32
    }

    /// Everything up to the head's input.
    fn forward(&mut self, weights: &Views<&[f32]>, inputs: &Inputs<'_>, dropout: Dropout) {
        let width = inputs.rows() * self.model.n_embd;
        let mask = dropout.mask(0, Site::Embedding);
        embedding::forward(
            &mut self.activations.residual[0][..width],
            inputs,
            weights.wte,
            weights.wpe,
            mask.as_ref(),
        );
        for layer in 0..self.model.n_layer {
            self.forward_block(layer, &weights.layers[layer], inputs.rows(), dropout);
        }
        let epsilon = self.epsilon();
        let Activations { residual, ln_f, ln_f_statistics, .. } = &mut self.activations;
        let last = &residual[self.model.n_layer][..width];
        layer_norm::forward(
            &mut ln_f[..width],
            &mut ln_f_statistics[..inputs.rows()],
            last,
            &weights.ln_f,
            epsilon,
        );
    }

    fn forward_block(&mut self, layer: usize, weights: &LayerViews<&[f32]>, rows: usize, dropout: Dropout) {
        let (width, inner) = (self.model.n_embd, self.model.n_inner());
        let epsilon = self.epsilon();
        let Activations { residual, blocks, scratch, .. } = &mut self.activations;
        let (before, after) = residual.split_at_mut(layer + 1);
        let (x, out) = (&before[layer][..rows * width], &mut after[0][..rows * width]);
        let index = layer.min(blocks.len() - 1);
        let Block { ln_1, ln_1_statistics, qkv, attention, middle, ln_2, ln_2_statistics, fc, gelu } =
            &mut blocks[index];
        let (ln_1, ln_2) = (&mut ln_1[..rows * width], &mut ln_2[..rows * width]);
        let (qkv, attention) = (&mut qkv[..rows * 3 * width], &mut attention[..rows * width]);
        let middle = &mut middle[..rows * width];
        let (fc, gelu) = (&mut fc[..rows * inner], &mut gelu[..rows * inner]);

        layer_norm::forward(ln_1, &mut ln_1_statistics[..rows], x, &weights.ln_1, epsilon);
        linear::forward(qkv, ln_1, &weights.attn_c_attn);
        let mask = dropout.mask(layer, Site::AttentionWeights);
        self.attention.forward(attention, qkv, mask.as_ref(), &mut scratch.heads[..rows * width]);
        linear::forward(middle, attention, &weights.attn_c_proj);
        add_residual(middle, x, width, dropout.mask(layer, Site::AttentionOutput).as_ref());
        layer_norm::forward(ln_2, &mut ln_2_statistics[..rows], middle, &weights.ln_2, epsilon);
        linear::forward(fc, ln_2, &weights.mlp_c_fc);
        gelu::forward(gelu, fc, inner);
        linear::forward(out, gelu, &weights.mlp_c_proj);
        add_residual(out, middle, width, dropout.mask(layer, Site::MlpOutput).as_ref());
    }

    /// Takes the gradient of the block's output in `d_residual` and leaves that of its input there.
    fn backward_block(
        &mut self,
        layer: usize,
        weights: &LayerViews<&[f32]>,
        gradient: &mut LayerViews<&mut [f32]>,
        rows: usize,
        dropout: Dropout,
    ) {
        if self.activations.blocks.len() < self.model.n_layer && layer + 1 < self.model.n_layer {
            self.forward_block(layer, weights, rows, dropout);
        }
        let (width, inner) = (self.model.n_embd, self.model.n_inner());
        let Activations { residual, blocks, scratch, .. } = &mut self.activations;
        let x = &residual[layer][..rows * width];
        let index = layer.min(blocks.len() - 1);
        let Block { ln_1, ln_1_statistics, qkv, attention, middle, ln_2, ln_2_statistics, fc, gelu } =
            &blocks[index];
        let d_residual = &mut scratch.d_residual[..rows * width];
        let d_width = &mut scratch.d_width[..rows * width];
        let d_attention = &mut scratch.d_attention[..rows * width];
        let d_qkv = &mut scratch.d_qkv[..rows * 3 * width];
        let d_inner = &mut scratch.d_inner[..rows * inner];

        masked_copy(d_width, d_residual, width, dropout.mask(layer, Site::MlpOutput).as_ref());
        let projection = &mut gradient.mlp_c_proj;
        linear::backward(d_inner, d_width, &gelu[..rows * inner], weights.mlp_c_proj.weight, projection);
        gelu::backward(d_inner, &fc[..rows * inner], inner);
        linear::backward(
            d_width,
            d_inner,
            &ln_2[..rows * width],
            weights.mlp_c_fc.weight,
            &mut gradient.mlp_c_fc,
        );
        let statistics = &ln_2_statistics[..rows];
        let middle = &middle[..rows * width];
        layer_norm::backward(
            d_residual,
            d_width,
            middle,
            statistics,
            weights.ln_2.weight,
            &mut gradient.ln_2,
        );

        masked_copy(d_width, d_residual, width, dropout.mask(layer, Site::AttentionOutput).as_ref());
        let attended = &attention[..rows * width];
        linear::backward(
            d_attention,
            d_width,
            attended,
            weights.attn_c_proj.weight,
            &mut gradient.attn_c_proj,
        );
        let mask = dropout.mask(layer, Site::AttentionWeights);
        let heads = &mut scratch.heads[..rows * 3 * width];
        self.attention.backward(d_qkv, d_attention, &qkv[..rows * 3 * width], mask.as_ref(), heads);
        linear::backward(
            d_width,
            d_qkv,
            &ln_1[..rows * width],
            weights.attn_c_attn.weight,
            &mut gradient.attn_c_attn,
        );
        let statistics = &ln_1_statistics[..rows];
        layer_norm::backward(d_residual, d_width, x, statistics, weights.ln_1.weight, &mut gradient.ln_1);
    }
}

#[cfg(test)]
impl CpuEngine {
    /// The logits of one row of the last pass.
    pub(crate) fn logits(&self, parameters: &[f32], row: usize) -> Vec<f32> {
        use crate::numerics::product::{Into, Matrix, MatrixMut, product};
        let ModelConfig { n_embd, vocab_size, .. } = self.model;
        let x = Matrix::new(&self.activations.ln_f[row * n_embd..(row + 1) * n_embd], 1, n_embd);
        let wte = Matrix::new(self.layout.views(parameters).wte, vocab_size, n_embd);
        let mut logits = vec![0.0; vocab_size];
        product(MatrixMut::new(&mut logits, 1, vocab_size), Into::Replace, x, wte.transposed());
        logits
    }
}

impl Engine for CpuEngine {
    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        tokens: &[u32],
        dropout: DropoutKey,
        gradient: &mut [f32],
    ) -> LossSum {
        let inputs = self.inputs(tokens);
        let rows = inputs.rows();
        let width = rows * self.model.n_embd;
        let layout = Arc::clone(&self.layout);
        let weights = layout.views(parameters);
        let mut gradient = layout.views_mut(gradient);
        let dropout = Dropout::new(dropout, self.model.dropout);
        self.forward(&weights, &inputs, dropout);

        let Activations { residual, ln_f, ln_f_statistics, logits, scratch, .. } = &mut self.activations;
        let gradients = head::Gradients { dx: &mut scratch.d_width[..width], dwte: gradient.wte };
        let sum = head::cross_entropy(&ln_f[..width], weights.wte, &inputs, logits, Some(gradients));
        let d_residual = &mut scratch.d_residual[..width];
        d_residual.fill(0.0);
        layer_norm::backward(
            d_residual,
            &mut scratch.d_width[..width],
            &residual[self.model.n_layer][..width],
            &ln_f_statistics[..rows],
            weights.ln_f.weight,
            &mut gradient.ln_f,
        );
        for layer in (0..self.model.n_layer).rev() {
            self.backward_block(layer, &weights.layers[layer], &mut gradient.layers[layer], rows, dropout);
        }
        let mask = dropout.mask(0, Site::Embedding);
        let d_residual = &mut self.activations.scratch.d_residual[..width];
        embedding::backward(d_residual, &inputs, gradient.wte, gradient.wpe, mask.as_ref());
        LossSum { sum, num_tokens: rows as u64 }
    }

    fn loss(&mut self, parameters: &[f32], tokens: &[u32]) -> LossSum {
        let inputs = self.inputs(tokens);
        let width = inputs.rows() * self.model.n_embd;
        let layout = Arc::clone(&self.layout);
        let weights = layout.views(parameters);
        self.forward(&weights, &inputs, Dropout::OFF);
        let Activations { ln_f, logits, .. } = &mut self.activations;
        let sum = head::cross_entropy(&ln_f[..width], weights.wte, &inputs, logits, None);
        LossSum { sum, num_tokens: inputs.rows() as u64 }
    }
}

/// `values = base + mask(values)`
fn add_residual(values: &mut [f32], base: &[f32], cols: usize, mask: Option<&Mask>) {
    values.par_chunks_mut(ROWS * cols).zip(base.par_chunks(ROWS * cols)).enumerate().for_each(
        |(task, (values, base))| match mask {
            Some(mask) => {
                for (index, (values, base)) in values.chunks_mut(cols).zip(base.chunks(cols)).enumerate() {
                    mask.apply_and_add(values, base, task * ROWS + index);
                }
            }
            None => {
                for (value, base) in values.iter_mut().zip(base) {
                    *value += base;
                }
            }
        },
    );
}

/// `out = mask(values)`
fn masked_copy(out: &mut [f32], values: &[f32], cols: usize, mask: Option<&Mask>) {
    out.par_chunks_mut(ROWS * cols).zip(values.par_chunks(ROWS * cols)).enumerate().for_each(
        |(task, (out, values))| {
            out.copy_from_slice(values);
            if let Some(mask) = mask {
                for (index, out) in out.chunks_mut(cols).enumerate() {
                    mask.apply(out, task * ROWS + index, cols);
                }
            }
        },
    );
}

impl std::fmt::Debug for CpuEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuEngine").field("model", &self.model).field("max_rows", &self.max_rows).finish()
    }
}
