//! GPT-2's forward and backward pass on the CPU.
//!
//! A pass has a few parallel regions per block. One region takes rows through everything before or after an attention.
//! One computes the attention by heads. In the backward pass, that region also computes the gradients of weights.

use crate::engine::{Batch, DropoutKey, EngineError, LossSum};
use crate::gpt2::block::{BlockAt, BlockBuffers, ScratchBuffers, backward_norm};
use crate::gpt2::buffers::{Activations, SumColumns};
use crate::gpt2::dropout_site::Site;
use crate::gpt2::layout::Views;
use crate::gpt2::packed::{PackedWeights, Packer, Pass};
use crate::gpt2::settings::Gpt2Config;
use crate::gpt2::weight_gradients::{Job, push_jobs_after_attention, push_jobs_before_attention, run};
use crate::layout::Layout;
use crate::model::Model;
use crate::ops::attention::Attention;
use crate::ops::cross_entropy;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::{self, Inputs};
use crate::ops::layer_norm;
use crate::ops::rows::{DisjointRows, for_each_in_order, for_each_range};
use keepstep_numerics::matmul::MatmulKind;
use keepstep_numerics::matmul::PackTask;
use keepstep_numerics::precision::Precision;
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
        let width = model.n_embd;
        let blocks: Vec<_> = (0..model.n_layer).map(|layer| self.block_at(layer, weights, dropout)).collect();
        let Activations { residual, blocks: buffers, ln_f, ln_f_statistics, scratch, .. } =
            &mut self.activations;
        let residual: Vec<_> = residual.iter_mut().map(|values| DisjointRows::new(values, width)).collect();
        let num_buffers = buffers.len();
        let buffers: Vec<_> = buffers.iter_mut().map(|block| BlockBuffers::new(block, &model)).collect();
        let buffers = |layer: usize| buffers[layer.min(num_buffers - 1)];
        let (scratch, room) = ScratchBuffers::new(scratch, &model);
        let packer = Packer::new(self.matmul_kind.packing(), room, Pass::Forward);
        let (ln_f, ln_f_statistics) = (DisjointRows::new(ln_f, width), DisjointRows::new(ln_f_statistics, 1));

        let mask = dropout.mask(0, Site::Embedding.into());
        // SAFETY: this is the first packing of the pass, and nothing has packed weights to read yet.
        let (packed, pack_tasks) = unsafe { packer.pack(None, weights.layers.first()) };
        for_each_in_order(pack_tasks, PackTask::run);
        for_each_range(rows, |range| {
            // SAFETY: `for_each_range` gives each task its own `range`. Every buffer is accessed only in the rows of
            // that range. The pack tasks are done.
            unsafe {
                let x = residual[0].rows(range.clone());
                embedding::forward(x, range.start, inputs, weights.wte, weights.wpe, mask.as_ref());
                blocks[0].before_attention(range, x, buffers(0), scratch, &packed);
            }
        });
        for layer in 0..model.n_layer {
            // SAFETY: the region that read the previous packed weights has ended. The next region that reads these
            // starts after `forward_shared` has run all pack tasks.
            let (packed, pack_tasks) =
                unsafe { packer.pack(weights.layers.get(layer), weights.layers.get(layer + 1)) };
            let mask = dropout.mask(layer, Site::AttentionWeights.into());
            let BlockBuffers { qkv, attention, softmax, .. } = buffers(layer);
            // SAFETY: no region of rows is running. Only the attention uses these buffers until it returns.
            unsafe { self.attention.forward_shared(rows, qkv, attention, softmax, mask, pack_tasks) };
            for_each_range(rows, |range| {
                // SAFETY: `for_each_range` gives each task its own `range`. Every buffer is accessed only in the rows
                // of that range. The attention has run the pack tasks.
                unsafe {
                    let x = residual[layer].read(range.clone());
                    let out = residual[layer + 1].rows(range.clone());
                    blocks[layer].after_attention(
                        range.clone(),
                        x,
                        Some(out),
                        buffers(layer),
                        scratch,
                        &packed,
                    );
                    match blocks.get(layer + 1) {
                        Some(next) => next.before_attention(range, out, buffers(layer + 1), scratch, &packed),
                        None => layer_norm::forward(
                            ln_f.rows(range.clone()),
                            ln_f_statistics.rows(range),
                            out,
                            &weights.ln_f,
                            model.layer_norm_epsilon as f32,
                        ),
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
        let width = model.n_embd;
        let at = &SumColumns::new(&model);
        let blocks: Vec<_> = (0..model.n_layer).map(|layer| self.block_at(layer, weights, dropout)).collect();
        let (attention, matmul_kind) = (self.attention, self.matmul_kind);
        let Activations { residual, blocks: buffers, ln_f_statistics, scratch, .. } = &mut self.activations;
        let residual: Vec<_> = residual.iter_mut().map(|values| DisjointRows::new(values, width)).collect();
        let num_buffers = buffers.len();
        let recompute = num_buffers < model.n_layer;
        let buffers: Vec<_> = buffers.iter_mut().map(|block| BlockBuffers::new(block, &model)).collect();
        let buffers = |layer: usize| buffers[layer.min(num_buffers - 1)];
        let (scratch, room) = ScratchBuffers::new(scratch, &model);
        let packer = Packer::new(matmul_kind.packing(), room, Pass::Backward);
        let ln_f_statistics = DisjointRows::new(ln_f_statistics, 1);

        // Backward through the operations between the attentions of blocks `layer` and `layer + 1`: the latter's first
        // LayerNorm and its queries, keys and values, or the last LayerNorm.
        let backward_next = |range: std::ops::Range<usize>, layer: usize, packed: &PackedWeights<'_>| {
            // SAFETY: the callers' regions give each task its own `range`, and every buffer is accessed only in those
            // rows.
            unsafe {
                let x = residual[layer + 1].read(range.clone());
                match blocks.get(layer + 1) {
                    Some(next) => {
                        next.backward_before_attention(range, x, buffers(layer + 1), scratch, packed, at);
                    }
                    None => {
                        let d_residual = scratch.d_residual.rows(range.clone());
                        d_residual.fill(0.0);
                        let dout = scratch.d_mlp.read(range.clone());
                        let statistics = ln_f_statistics.read(range.clone());
                        let weight = weights.ln_f.weight;
                        backward_norm(range, d_residual, dout, x, statistics, weight, scratch.sums, at);
                    }
                }
            }
        };
        // SAFETY: this is the first packing of the pass, and nothing has packed weights to read yet.
        let (mut packed, pack_tasks) = unsafe { packer.pack(weights.layers.last(), None) };
        for_each_in_order(pack_tasks, PackTask::run);
        for layer in (0..model.n_layer).rev() {
            let (block, buffer) = (&blocks[layer], buffers(layer));
            let (these, later) = gradient.layers.split_at_mut(layer + 1);
            let mut jobs = Vec::new();
            if recompute && layer + 1 < model.n_layer {
                for_each_range(rows, |range| backward_next(range, layer, &packed));
                push_jobs_before_attention(
                    &mut jobs,
                    later.first_mut(),
                    &mut gradient.ln_f,
                    buffers(layer + 1),
                    scratch,
                    rows,
                    at,
                );
                // SAFETY: no other region is running. Each job writes its own gradient, and the sums are only read.
                unsafe { run(matmul_kind, std::mem::take(&mut jobs), scratch, rows, None) };
                for_each_range(rows, |range| {
                    // SAFETY: `for_each_range` gives each task its own `range`. Every buffer is accessed only in those
                    // rows.
                    unsafe {
                        let x = residual[layer].read(range.clone());
                        block.before_attention(range, x, buffer, scratch, &PackedWeights::default());
                    }
                });
                let mask = dropout.mask(layer, Site::AttentionWeights.into());
                let (qkv, out, softmax) = (buffer.qkv, buffer.attention, buffer.softmax);
                // SAFETY: no region of rows is running. Only the attention uses these buffers until it returns.
                unsafe { attention.forward_shared(rows, qkv, out, softmax, mask, Vec::new()) };
                for_each_range(rows, |range| {
                    // SAFETY: `for_each_range` gives each task its own `range`. Every buffer is accessed only in those
                    // rows.
                    unsafe {
                        let x = residual[layer].read(range.clone());
                        block.after_attention(
                            range.clone(),
                            x,
                            None,
                            buffer,
                            scratch,
                            &PackedWeights::default(),
                        );
                        block.backward_after_attention(range, buffer, scratch, &packed, at);
                    }
                });
            } else {
                for_each_range(rows, |range| {
                    backward_next(range.clone(), layer, &packed);
                    // SAFETY: `for_each_range` gives each task its own `range`. Every buffer is accessed only in those
                    // rows.
                    unsafe { block.backward_after_attention(range, buffer, scratch, &packed, at) };
                });
                push_jobs_before_attention(
                    &mut jobs,
                    later.first_mut(),
                    &mut gradient.ln_f,
                    buffers(layer + 1),
                    scratch,
                    rows,
                    at,
                );
            }
            jobs.extend((0..attention.num_heads(rows)).map(Job::Head));
            let before = layer.checked_sub(1).map(|before| &weights.layers[before]);
            // SAFETY: the region that read the previous packed weights has ended. The next region that reads these
            // starts after `run` has done all jobs.
            let (next_packed, pack_tasks) = unsafe { packer.pack(before, Some(&weights.layers[layer])) };
            packed = next_packed;
            jobs.extend(pack_tasks.into_iter().map(Job::Pack));
            push_jobs_after_attention(&mut jobs, &mut these[layer], buffer, scratch, rows, at);
            let mask = dropout.mask(layer, Site::AttentionWeights.into());
            // SAFETY: each job writes its own gradient, its own packed weight, or its own head's columns of `qkv`. No
            // other job reads those columns. Everything else is only read.
            unsafe {
                let attended = buffer.attention.read(0..rows);
                let dout = scratch.d_attention.read(0..rows);
                let softmax = buffer.softmax.read(0..attention.num_heads(rows) * model.block_size);
                let head =
                    |head| attention.backward_head(head, buffer.qkv, attended, dout, softmax, mask.as_ref());
                run(matmul_kind, jobs, scratch, rows, Some(&head));
            }
        }
        let (block, buffer) = (&blocks[0], buffers(0));
        for_each_range(rows, |range| {
            // SAFETY: `for_each_range` gives each task its own `range`. Every buffer is accessed only in those rows.
            unsafe {
                let x = residual[0].read(range.clone());
                block.backward_before_attention(range, x, buffer, scratch, &packed, at);
            }
        });
        let mut jobs = Vec::new();
        push_jobs_before_attention(
            &mut jobs,
            gradient.layers.first_mut(),
            &mut gradient.ln_f,
            buffer,
            scratch,
            rows,
            at,
        );
        // SAFETY: no other region is running. Each job writes its own gradient, and the sums are only read.
        unsafe { run(matmul_kind, jobs, scratch, rows, None) };
    }
}

#[cfg(test)]
impl Gpt2 {
    /// Computes the logits of one row of the last pass.
    pub(crate) fn logits(&self, parameters: &[f32], row: usize) -> Vec<f32> {
        use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut};
        let Gpt2Config { n_embd, vocab_size, .. } = self.model;
        let x = Matrix::new(&self.activations.ln_f[row * n_embd..(row + 1) * n_embd], 1, n_embd);
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
        let width = rows * self.model.n_embd;
        let layout = Arc::clone(&self.layout);
        let weights = self.model.views(&layout, parameters);
        let mut gradient = self.model.views_mut(&layout, gradient);
        let dropout = Dropout::new(key, self.model.dropout);
        self.forward(&weights, &inputs, dropout);

        let Activations { ln_f, head, scratch, .. } = &mut self.activations;
        let gradients = cross_entropy::Gradients { dx: &mut scratch.d_mlp[..width], dwte: gradient.wte };
        let sum = cross_entropy::cross_entropy(
            self.matmul_kind,
            &ln_f[..width],
            weights.wte,
            &inputs,
            head,
            Some(gradients),
        );
        self.backward(&weights, &mut gradient, rows, dropout);
        let mask = dropout.mask(0, Site::Embedding.into());
        let d_residual = &mut self.activations.scratch.d_residual[..width];
        embedding::backward(d_residual, &inputs, gradient.wte, gradient.wpe, mask.as_ref());
        Ok(LossSum { sum, num_tokens: rows as u64 })
    }

    fn loss(&mut self, parameters: &[f32], batch: &Batch<'_>) -> Result<LossSum, EngineError> {
        let inputs = self.inputs(batch)?;
        let width = inputs.rows() * self.model.n_embd;
        let layout = Arc::clone(&self.layout);
        let weights = self.model.views(&layout, parameters);
        self.forward(&weights, &inputs, Dropout::OFF);
        let Activations { ln_f, head, .. } = &mut self.activations;
        let sum =
            cross_entropy::cross_entropy(self.matmul_kind, &ln_f[..width], weights.wte, &inputs, head, None);
        Ok(LossSum { sum, num_tokens: inputs.rows() as u64 })
    }
}

impl std::fmt::Debug for Gpt2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpt2").field("model", &self.model).field("max_rows", &self.max_rows).finish()
    }
}
