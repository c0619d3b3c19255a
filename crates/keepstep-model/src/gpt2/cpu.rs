//! GPT-2's forward and backward pass on the CPU.
//!
//! A pass has a few parallel regions per block. One region takes rows through everything before or after an attention.
//! One computes the attention by heads. In the backward pass, that region also computes the gradients of weights.

use crate::engine::{Batch, DropoutKey, EngineError, LossSum};
use crate::gpt2::block::{BlockAt, backward_norm};
use crate::gpt2::buffers::{Activations, BackwardRows, BeforeAttention, GradientRows, SumColumns};
use crate::gpt2::dropout_site::Site;
use crate::gpt2::layout::Views;
use crate::gpt2::packed::{PackedWeights, Packer, Pass};
use crate::gpt2::settings::Gpt2Config;
use crate::gpt2::weight_gradients::{Job, Jobs, run};
use crate::layout::Layout;
use crate::model::Model;
use crate::ops::attention::{Attention, HeadColumns};
use crate::ops::cross_entropy;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::{self, Inputs};
use crate::ops::layer_norm;
use crate::ops::rows::{for_each_in_order, for_each_part};
use keepstep_numerics::matmul::MatmulKind;
use keepstep_numerics::matmul::PackTask;
use keepstep_numerics::precision::Precision;
use std::ops::Range;
use std::sync::Arc;

/// The description of a [`Gpt2`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Gpt2Spec {
    /// The model's sizes.
    pub config: Gpt2Config,
    /// The largest number of sequences in a micro-batch.
    pub batch_size: usize,
    /// Whether to keep only the input of each block and to compute the rest again in the backward pass: less memory,
    /// more time, the same bits.
    pub recompute_activations: bool,
    /// The precision of the matmuls of linear layers and of the head.
    pub precision: Precision,
}

impl Gpt2Spec {
    /// Describes a model in float32 that keeps all activations.
    pub fn new(config: Gpt2Config, batch_size: usize) -> Gpt2Spec {
        Gpt2Spec { config, batch_size, recompute_activations: false, precision: Precision::Float32 }
    }
}

/// GPT-2 with its buffers, on all threads of the current rayon pool.
pub struct Gpt2 {
    model: Gpt2Config,
    /// In an `Arc`, which lets a pass hold the layout while it borrows the buffers.
    layout: Arc<Layout>,
    attention: Attention,
    activations: Activations,
    matmul_kind: MatmulKind,
    max_rows: usize,
}

impl Gpt2 {
    fn inputs<'a>(&self, batch: &Batch<'a>) -> Result<Inputs<'a>, EngineError> {
        let Gpt2Config { block_size, vocab_size, .. } = self.model;
        let (tokens, sequence_len) = (batch.tokens(), block_size + 1);
        let batch_size = self.max_rows / block_size;
        if !tokens.len().is_multiple_of(sequence_len)
            || !(1..=batch_size).contains(&(tokens.len() / sequence_len))
        {
            return Err(EngineError::Batch { found: tokens.len(), batch_size, sequence_len });
        }
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(EngineError::Token { token, vocab_size }),
            None => Ok(Inputs::new(tokens, block_size)),
        }
    }

    fn block_at<'a>(&self, layer: usize, weights: &'a Views<&'a [f32]>, dropout: Dropout) -> BlockAt<'a> {
        BlockAt {
            layer,
            weights: &weights.layers[layer],
            dropout,
            width: self.model.n_embd,
            inner: self.model.n_inner(),
            epsilon: self.model.layer_norm_epsilon as f32,
            matmul_kind: self.matmul_kind,
        }
    }

    /// Computes the hidden states up to the input of the head.
    fn forward(&mut self, weights: &Views<&[f32]>, inputs: &Inputs<'_>, dropout: Dropout) {
        let (model, rows) = (self.model, inputs.rows());
        let blocks: Vec<_> = (0..model.n_layer).map(|layer| self.block_at(layer, weights, dropout)).collect();
        let Activations {
            residual,
            before_attention,
            softmax,
            after_attention,
            last,
            scratch,
            packed: room,
            ..
        } = &mut self.activations;
        let num_buffers = after_attention.len();
        let at = |layer: usize| layer.min(num_buffers - 1);
        let packer = Packer::new(self.matmul_kind.packing(), Pass::Forward);

        let mask = dropout.mask(0, Site::Embedding.into());
        let (packed, pack_tasks) = packer.pack(room, None, weights.layers.first());
        for_each_in_order(pack_tasks, PackTask::run);
        let parts = (residual[0].all_mut(), (before_attention[0].all_mut(), scratch.all_mut()));
        for_each_part(rows, parts, |range, (mut x, (mut before, mut scratch))| {
            embedding::forward(&mut x, range.start, inputs, weights.wte, weights.wpe, mask.as_ref());
            blocks[0].before_attention(&x, &mut before, &mut scratch, &packed);
        });
        for layer in 0..model.n_layer {
            let (packed, pack_tasks) =
                packer.pack(room, weights.layers.get(layer), weights.layers.get(layer + 1));
            let mask = dropout.mask(layer, Site::AttentionWeights.into());
            let after = &mut after_attention[at(layer)];
            self.attention.forward(
                before_attention[at(layer)].qkv.first(rows),
                after.attention.first_mut(rows),
                &mut softmax[at(layer)][..self.attention.num_heads(rows) * model.block_size],
                mask,
                pack_tasks,
            );
            let (inputs, outputs) = residual.split_at_mut(layer + 1);
            let parts = (
                outputs[0].all_mut(),
                after.all_mut(),
                before_attention[at(layer + 1)].all_mut(),
                last.all_mut(),
                scratch.all_mut(),
            );
            for_each_part(rows, parts, |range, (mut out, mut after, mut before, mut last, mut scratch)| {
                let x = inputs[layer].rows(&range);
                blocks[layer].after_attention(range, x, Some(&mut out), &mut after, &mut scratch, &packed);
                match blocks.get(layer + 1) {
                    Some(next) => next.before_attention(&out, &mut before, &mut scratch, &packed),
                    None => {
                        let epsilon = model.layer_norm_epsilon as f32;
                        layer_norm::forward(
                            &mut last.out,
                            &mut last.statistics,
                            &out,
                            &weights.ln_f,
                            epsilon,
                        );
                    }
                }
            });
        }
    }

    /// Computes gradients, from the output of the last LayerNorm (read from `d_mlp`) back to the input of the first
    /// block (left in `d_residual`).
    fn backward(
        &mut self,
        weights: &Views<&[f32]>,
        gradient: &mut Views<&mut [f32]>,
        rows: usize,
        dropout: Dropout,
    ) {
        let model = self.model;
        let at = &SumColumns::new(&model);
        let blocks: Vec<_> = (0..model.n_layer).map(|layer| self.block_at(layer, weights, dropout)).collect();
        let (attention, matmul_kind) = (self.attention, self.matmul_kind);
        let Activations {
            residual,
            before_attention,
            softmax,
            after_attention,
            last,
            scratch,
            row_gradients,
            packed: room,
            ..
        } = &mut self.activations;
        let (residual, last) = (&*residual, &*last);
        let num_buffers = after_attention.len();
        let recompute = num_buffers < model.n_layer;
        let buffer = |layer: usize| layer.min(num_buffers - 1);
        let packer = Packer::new(matmul_kind.packing(), Pass::Backward);
        let no_head = |_: HeadColumns<'_>| ();
        let num_heads = attention.num_heads(rows);

        // Backward through the operations between the attentions of blocks `layer` and `layer + 1`: the latter's first
        // LayerNorm and its queries, keys and values, or the last LayerNorm.
        let backward_next = |range: &Range<usize>,
                             layer: usize,
                             before: Option<&BeforeAttention>,
                             rows: &mut BackwardRows<'_>,
                             packed: &PackedWeights<'_>| {
            let x = residual[layer + 1].rows(range);
            match (blocks.get(layer + 1), before) {
                (Some(next), Some(before)) => {
                    next.backward_before_attention(range, x, before, rows, packed, at);
                }
                _ => {
                    let (_, GradientRows { d_residual, d_mlp, sums, .. }) = rows;
                    d_residual.fill(0.0);
                    let statistics = last.statistics.rows(range);
                    backward_norm(d_residual, d_mlp, x, statistics, weights.ln_f.weight, sums, at);
                }
            }
        };
        let (mut packed, pack_tasks) = packer.pack(room, weights.layers.last(), None);
        for_each_in_order(pack_tasks, PackTask::run);
        for layer in (0..model.n_layer).rev() {
            let block = &blocks[layer];
            let mask = dropout.mask(layer, Site::AttentionWeights.into());
            let (these, later) = gradient.layers.split_at_mut(layer + 1);
            let after = &mut after_attention[buffer(layer)];
            let softmax = &mut softmax[buffer(layer)][..num_heads * model.block_size];
            let mut jobs = Jobs::with_heads(num_heads);
            let before = if recompute && layer + 1 < model.n_layer {
                let before = &mut before_attention[0];
                let parts = (scratch.all_mut(), row_gradients.all_mut());
                for_each_part(rows, parts, |range, mut part| {
                    backward_next(&range, layer, Some(before), &mut part, &packed);
                });
                let mut next = Jobs::with_heads(0);
                let weights = later.first_mut().map(|next| (next, &*before));
                next.push_before_attention(weights, &mut gradient.ln_f, scratch, rows, at);
                run(matmul_kind, next, row_gradients.sums.first(rows), at, &no_head);
                let unpacked = &PackedWeights::default();
                let parts = (before.all_mut(), scratch.all_mut());
                for_each_part(rows, parts, |range, (mut before, mut scratch)| {
                    block.before_attention(residual[layer].rows(&range), &mut before, &mut scratch, unpacked);
                });
                let out = after.attention.first_mut(rows);
                attention.forward(before.qkv.first(rows), out, softmax, mask, Vec::new());
                let parts = (after.all_mut(), (scratch.all_mut(), row_gradients.all_mut()));
                for_each_part(rows, parts, |range, (mut after, mut part)| {
                    let x = residual[layer].rows(&range);
                    block.after_attention(range.clone(), x, None, &mut after, &mut part.0, unpacked);
                    block.backward_after_attention(range, &mut after, &mut part, &packed, at);
                });
                before
            } else {
                let (these, later_buffers) = before_attention.split_at_mut(buffer(layer) + 1);
                let next = later_buffers.first();
                let parts = (after.all_mut(), (scratch.all_mut(), row_gradients.all_mut()));
                for_each_part(rows, parts, |range, (mut after, mut part)| {
                    backward_next(&range, layer, next, &mut part, &packed);
                    block.backward_after_attention(range, &mut after, &mut part, &packed, at);
                });
                let weights = later.first_mut().zip(next);
                jobs.push_before_attention(weights, &mut gradient.ln_f, scratch, rows, at);
                &mut these[buffer(layer)]
            };
            let previous = layer.checked_sub(1).map(|previous| &weights.layers[previous]);
            let (next_packed, pack_tasks) = packer.pack(room, previous, Some(&weights.layers[layer]));
            packed = next_packed;
            // Another variable: the packed weights may live longer than the jobs that were pushed before.
            let mut jobs: Jobs<'_> = jobs;
            jobs.extend(attention.heads(before.qkv.first_mut(rows)).into_iter().map(Job::Head));
            jobs.extend(pack_tasks.into_iter().map(Job::Pack));
            jobs.push_after_attention(&mut these[layer], after, scratch, row_gradients, rows, at);
            let (attended, dout) = (after.attention.first(rows), row_gradients.d_attention.first(rows));
            run(matmul_kind, jobs, row_gradients.sums.first(rows), at, &|columns| {
                attention.backward_head(columns, attended, dout, softmax, mask.as_ref());
            });
        }
        let before = &before_attention[0];
        let parts = (scratch.all_mut(), row_gradients.all_mut());
        for_each_part(rows, parts, |range, mut part| {
            let x = residual[0].rows(&range);
            blocks[0].backward_before_attention(&range, x, before, &mut part, &packed, at);
        });
        let mut jobs = Jobs::with_heads(0);
        let weights = gradient.layers.first_mut().map(|first| (first, before));
        jobs.push_before_attention(weights, &mut gradient.ln_f, scratch, rows, at);
        run(matmul_kind, jobs, row_gradients.sums.first(rows), at, &no_head);
    }
}

#[cfg(test)]
impl Gpt2 {
    /// Computes the logits of one row of the last pass.
    pub(crate) fn logits(&self, parameters: &[f32], row: usize) -> Vec<f32> {
        use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut};
        let Gpt2Config { n_embd, vocab_size, .. } = self.model;
        let x = Matrix::new(self.activations.last.out.rows(&(row..row + 1)), 1, n_embd);
        let wte = Matrix::new(self.model.views(&self.layout, parameters).wte, vocab_size, n_embd);
        let mut logits = vec![0.0; vocab_size];
        self.matmul_kind.matmul(
            MatrixMut::new(&mut logits, 1, vocab_size),
            Accumulate::Replace,
            x,
            wte.transposed(),
        );
        logits
    }
}

impl Model for Gpt2 {
    type Spec = Gpt2Spec;

    fn new(spec: &Gpt2Spec) -> Gpt2 {
        let model = &spec.config;
        let max_rows = spec.batch_size * model.block_size;
        Gpt2 {
            model: *model,
            layout: Arc::new(model.layout()),
            attention: model.attention(),
            activations: Activations::new(model, max_rows, spec.recompute_activations),
            matmul_kind: MatmulKind::detect(spec.precision),
            max_rows,
        }
    }

    fn layout(spec: &Gpt2Spec) -> Layout {
        spec.config.layout()
    }

    fn activations_bytes(spec: &Gpt2Spec) -> u64 {
        let rows = spec.batch_size * spec.config.block_size;
        Activations::len_bytes(&spec.config, rows, spec.recompute_activations)
    }

    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_>,
        key: DropoutKey,
        gradient: &mut [f32],
    ) -> Result<LossSum, EngineError> {
        let inputs = self.inputs(batch)?;
        let rows = inputs.rows();
        let layout = Arc::clone(&self.layout);
        let weights = self.model.views(&layout, parameters);
        let mut gradient = self.model.views_mut(&layout, gradient);
        let dropout = Dropout::new(key, self.model.dropout);
        self.forward(&weights, &inputs, dropout);

        let Activations { last, head, row_gradients, .. } = &mut self.activations;
        let gradients =
            cross_entropy::Gradients { dx: row_gradients.d_mlp.first_mut(rows), dwte: gradient.wte };
        let sum = cross_entropy::cross_entropy(
            self.matmul_kind,
            last.out.first(rows),
            weights.wte,
            &inputs,
            head,
            Some(gradients),
        );
        self.backward(&weights, &mut gradient, rows, dropout);
        let mask = dropout.mask(0, Site::Embedding.into());
        let d_residual = self.activations.row_gradients.d_residual.first_mut(rows);
        embedding::backward(d_residual, &inputs, gradient.wte, gradient.wpe, mask.as_ref());
        Ok(LossSum { sum, num_tokens: rows as u64 })
    }

    fn loss(&mut self, parameters: &[f32], batch: &Batch<'_>) -> Result<LossSum, EngineError> {
        let inputs = self.inputs(batch)?;
        let rows = inputs.rows();
        let layout = Arc::clone(&self.layout);
        let weights = self.model.views(&layout, parameters);
        self.forward(&weights, &inputs, Dropout::OFF);
        let Activations { last, head, .. } = &mut self.activations;
        let sum = cross_entropy::cross_entropy(
            self.matmul_kind,
            last.out.first(rows),
            weights.wte,
            &inputs,
            head,
            None,
        );
        Ok(LossSum { sum, num_tokens: rows as u64 })
    }
}

impl std::fmt::Debug for Gpt2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpt2").field("model", &self.model).field("max_rows", &self.max_rows).finish()
    }
}
