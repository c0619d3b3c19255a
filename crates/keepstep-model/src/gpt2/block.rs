//! The row-wise operations of a transformer block, before and after its attention, forward and backward. Each task
//! takes a range of rows through all of them, and the rows stay in the caches.

use crate::gpt2::buffers::{Block, Scratch, SumColumns};
use crate::gpt2::dropout_site::Site;
use crate::gpt2::layout::LayerViews;
use crate::gpt2::packed::PackedWeights;
use crate::gpt2::settings::Gpt2Config;
use crate::ops::affine::Affine;
use crate::ops::dropout::{Dropout, Mask};
use crate::ops::gelu;
use crate::ops::layer_norm::{self, Statistics};
use crate::ops::linear::{backward_rows, column_sums, forward_rows};
use crate::ops::rows::{BLOCK, DisjointRows, with_buffer};
use crate::ops::softmax::RowSoftmax;
use keepstep_numerics::matmul::AlignedBuffer;
use keepstep_numerics::matmul::MatmulKind;
use std::ops::Range;

/// The buffers of one block, shared by tasks.
#[derive(Clone, Copy)]
pub(crate) struct BlockBuffers<'a> {
    pub(crate) ln_1_statistics: DisjointRows<'a, Statistics>,
    pub(crate) qkv: DisjointRows<'a, f32>,
    pub(crate) softmax: DisjointRows<'a, RowSoftmax>,
    pub(crate) attention: DisjointRows<'a, f32>,
    pub(crate) middle: DisjointRows<'a, f32>,
    pub(crate) ln_2_statistics: DisjointRows<'a, Statistics>,
    pub(crate) fc: DisjointRows<'a, f32>,
}

impl<'a> BlockBuffers<'a> {
    pub(crate) fn new(block: &'a mut Block, model: &Gpt2Config) -> BlockBuffers<'a> {
        let (width, inner) = (model.n_embd, model.n_inner());
        BlockBuffers {
            ln_1_statistics: DisjointRows::new(&mut block.ln_1_statistics, 1),
            qkv: DisjointRows::new(&mut block.qkv, 3 * width),
            softmax: DisjointRows::new(&mut block.softmax, 1),
            attention: DisjointRows::new(&mut block.attention, width),
            middle: DisjointRows::new(&mut block.middle, width),
            ln_2_statistics: DisjointRows::new(&mut block.ln_2_statistics, 1),
            fc: DisjointRows::new(&mut block.fc, inner),
        }
    }
}

/// The scratch buffers, shared by tasks.
#[derive(Clone, Copy)]
pub(crate) struct ScratchBuffers<'a> {
    pub(crate) ln_1: DisjointRows<'a, f32>,
    pub(crate) ln_2: DisjointRows<'a, f32>,
    pub(crate) gelu: DisjointRows<'a, f32>,
    pub(crate) d_residual: DisjointRows<'a, f32>,
    pub(crate) d_mlp: DisjointRows<'a, f32>,
    pub(crate) d_projection: DisjointRows<'a, f32>,
    pub(crate) d_attention: DisjointRows<'a, f32>,
    pub(crate) sums: DisjointRows<'a, f32>,
}

impl<'a> ScratchBuffers<'a> {
    /// Wraps the scratch buffers, and returns them with the buffer for packed weights.
    pub(crate) fn new(
        scratch: &'a mut Scratch,
        model: &Gpt2Config,
    ) -> (ScratchBuffers<'a>, &'a mut AlignedBuffer) {
        let width = model.n_embd;
        let buffers = ScratchBuffers {
            ln_1: DisjointRows::new(&mut scratch.ln_1, width),
            ln_2: DisjointRows::new(&mut scratch.ln_2, width),
            gelu: DisjointRows::new(&mut scratch.gelu, model.n_inner()),
            d_residual: DisjointRows::new(&mut scratch.d_residual, width),
            d_mlp: DisjointRows::new(&mut scratch.d_mlp, width),
            d_projection: DisjointRows::new(&mut scratch.d_projection, width),
            d_attention: DisjointRows::new(&mut scratch.d_attention, width),
            sums: DisjointRows::new(&mut scratch.sums, SumColumns::new(model).all),
        };
        (buffers, &mut scratch.packed)
    }
}

/// One block of the model, with its weights and its dropout.
#[derive(Clone, Copy)]
pub(crate) struct BlockAt<'a> {
    pub(crate) layer: usize,
    pub(crate) weights: &'a LayerViews<&'a [f32]>,
    pub(crate) dropout: Dropout,
    pub(crate) width: usize,
    pub(crate) inner: usize,
    pub(crate) epsilon: f32,
    pub(crate) matmul_kind: MatmulKind,
}

/// # Safety
/// The contract of every method here: no other task uses the rows `rows` of any buffer during the call. The packed
/// weights belong to this block and to this pass, and all their pack tasks are done.
impl BlockAt<'_> {
    /// Computes LayerNorm and the queries, keys and values.
    pub(crate) unsafe fn before_attention(
        &self,
        rows: Range<usize>,
        x: &[f32],
        buffers: BlockBuffers<'_>,
        scratch: ScratchBuffers<'_>,
        packed: &PackedWeights<'_>,
    ) {
        // SAFETY: by this function's contract, no other task uses the rows `rows`.
        let (ln_1, statistics, qkv) = unsafe {
            (
                scratch.ln_1.rows(rows.clone()),
                buffers.ln_1_statistics.rows(rows.clone()),
                buffers.qkv.rows(rows),
            )
        };
        layer_norm::forward(ln_1, statistics, x, &self.weights.ln_1, self.epsilon);
        // SAFETY: by this function's contract, `packed` holds this weight for this pass, fully written.
        unsafe { forward_rows(self.matmul_kind, qkv, ln_1, &self.weights.attn_c_attn, packed.attn_c_attn) };
    }

    /// Computes the attention's projection, the second LayerNorm and the MLP's first layer. With `out`, it also
    /// computes the rest of the block.
    pub(crate) unsafe fn after_attention(
        &self,
        rows: Range<usize>,
        x: &[f32],
        out: Option<&mut [f32]>,
        buffers: BlockBuffers<'_>,
        scratch: ScratchBuffers<'_>,
        packed: &PackedWeights<'_>,
    ) {
        // SAFETY: by this function's contract, no other task uses the rows `rows`.
        let (attention, middle, ln_2, statistics, fc, active) = unsafe {
            (
                buffers.attention.rows(rows.clone()),
                buffers.middle.rows(rows.clone()),
                scratch.ln_2.rows(rows.clone()),
                buffers.ln_2_statistics.rows(rows.clone()),
                buffers.fc.rows(rows.clone()),
                scratch.gelu.rows(rows.clone()),
            )
        };
        // SAFETY: by this function's contract, `packed` holds this weight for this pass, fully written.
        unsafe {
            forward_rows(self.matmul_kind, middle, attention, &self.weights.attn_c_proj, packed.attn_c_proj)
        };
        let mask = self.dropout.mask(self.layer, Site::AttentionOutput.into());
        let cols = self.width;
        let lines = middle.chunks_mut(cols).zip(x.chunks(cols)).zip(ln_2.chunks_mut(cols)).zip(statistics);
        for ((((middle, x), ln_2), statistics), row) in lines.zip(rows.clone()) {
            add_residual(middle, x, mask.as_ref(), row);
            let Affine { weight, bias } = &self.weights.ln_2;
            *statistics = layer_norm::normalize(ln_2, middle, weight, bias, self.epsilon);
        }
        // SAFETY: by this function's contract, `packed` holds this weight for this pass, fully written.
        unsafe { forward_rows(self.matmul_kind, fc, ln_2, &self.weights.mlp_c_fc, packed.mlp_c_fc) };
        let Some(out) = out else { return };
        gelu::gelu(active, fc);
        // SAFETY: by this function's contract, `packed` holds this weight for this pass, fully written.
        unsafe { forward_rows(self.matmul_kind, out, active, &self.weights.mlp_c_proj, packed.mlp_c_proj) };
        let mask = self.dropout.mask(self.layer, Site::MlpOutput.into());
        for ((out, middle), row) in out.chunks_mut(cols).zip(middle.chunks(cols)).zip(rows) {
            add_residual(out, middle, mask.as_ref(), row);
        }
    }

    /// Backward through the MLP and the attention's projection. Reads dL/d(block output) from `d_residual`. Leaves
    /// dL/d(residual stream after the attention) there, and dL/d(attention output) in `d_attention`.
    pub(crate) unsafe fn backward_after_attention(
        &self,
        rows: Range<usize>,
        buffers: BlockBuffers<'_>,
        scratch: ScratchBuffers<'_>,
        packed: &PackedWeights<'_>,
        at: &SumColumns,
    ) {
        // SAFETY: by this function's contract, no other task uses the rows `rows`.
        let (d_residual, d_mlp, d_projection, d_attention, middle, statistics, fc, ln_2, active) = unsafe {
            (
                scratch.d_residual.rows(rows.clone()),
                scratch.d_mlp.rows(rows.clone()),
                scratch.d_projection.rows(rows.clone()),
                scratch.d_attention.rows(rows.clone()),
                buffers.middle.rows(rows.clone()),
                buffers.ln_2_statistics.rows(rows.clone()),
                buffers.fc.rows(rows.clone()),
                scratch.ln_2.rows(rows.clone()),
                scratch.gelu.rows(rows.clone()),
            )
        };
        let (weights, width) = (self.weights, self.width);
        self.masked_copy(d_mlp, d_residual, Site::MlpOutput, rows.start);
        with_buffer(rows.len() * self.inner, |d_active| {
            // SAFETY: by this function's contract, `packed` holds this weight for this pass, fully written.
            unsafe {
                backward_rows(self.matmul_kind, d_active, d_mlp, &weights.mlp_c_proj, packed.mlp_c_proj)
            };
            gelu::backward(fc, active, d_active);
        });
        let Affine { weight, bias } = &weights.ln_2;
        layer_norm::again(ln_2, middle, statistics, weight, bias);
        with_buffer(rows.len() * width, |d_ln_2| {
            // SAFETY: by this function's contract, `packed` holds this weight for this pass, fully written.
            unsafe { backward_rows(self.matmul_kind, d_ln_2, fc, &weights.mlp_c_fc, packed.mlp_c_fc) };
            for (index, start) in (0..rows.len()).step_by(BLOCK).enumerate() {
                let end = rows.len().min(start + BLOCK);
                let part = start * width..end * width;
                // SAFETY: `rows` starts at a multiple of `BLOCK`, so only this task writes the sums of its blocks of
                // rows.
                let sums =
                    unsafe { scratch.sums.rows(rows.start / BLOCK + index..rows.start / BLOCK + index + 1) };
                column_sums(&mut sums[at.mlp_c_proj..][..width], &d_mlp[part.clone()]);
                column_sums(
                    &mut sums[at.mlp_c_fc..][..self.inner],
                    &fc[start * self.inner..end * self.inner],
                );
                let (dweight, dbias) = sums[at.ln_2_weight..][..2 * width].split_at_mut(width);
                layer_norm::backward(
                    &mut d_residual[part.clone()],
                    &d_ln_2[part.clone()],
                    &middle[part],
                    &statistics[start..end],
                    weight,
                    dweight,
                    dbias,
                );
            }
        });
        self.masked_copy(d_projection, d_residual, Site::AttentionOutput, rows.start);
        // SAFETY: by this function's contract, `packed` holds this weight for this pass, fully written.
        unsafe {
            backward_rows(
                self.matmul_kind,
                d_attention,
                d_projection,
                &weights.attn_c_proj,
                packed.attn_c_proj,
            )
        };
        for (index, values) in d_projection.chunks(BLOCK * width).enumerate() {
            let block = rows.start / BLOCK + index;
            // SAFETY: `rows` starts at a multiple of `BLOCK`, so only this task writes the sums of its blocks of rows.
            let sums = unsafe { scratch.sums.part(block, at.attn_c_proj..at.attn_c_proj + width) };
            column_sums(sums, values);
        }
    }

    /// Backward through the queries, keys and values and the first LayerNorm. Reads dL/d(qkv), and leaves
    /// dL/d(block input) in `d_residual`.
    pub(crate) unsafe fn backward_before_attention(
        &self,
        rows: Range<usize>,
        x: &[f32],
        buffers: BlockBuffers<'_>,
        scratch: ScratchBuffers<'_>,
        packed: &PackedWeights<'_>,
        at: &SumColumns,
    ) {
        // SAFETY: by this function's contract, no other task uses the rows `rows`.
        let (d_residual, statistics, d_qkv, ln_1) = unsafe {
            (
                scratch.d_residual.rows(rows.clone()),
                buffers.ln_1_statistics.rows(rows.clone()),
                buffers.qkv.rows(rows.clone()),
                scratch.ln_1.rows(rows.clone()),
            )
        };
        let width = self.width;
        let Affine { weight, bias } = &self.weights.ln_1;
        layer_norm::again(ln_1, x, statistics, weight, bias);
        with_buffer(rows.len() * width, |d_ln_1| {
            // SAFETY: by this function's contract, `packed` holds this weight for this pass, fully written.
            unsafe {
                backward_rows(self.matmul_kind, d_ln_1, d_qkv, &self.weights.attn_c_attn, packed.attn_c_attn)
            };
            for (index, values) in d_qkv.chunks(BLOCK * 3 * width).enumerate() {
                let block = rows.start / BLOCK + index;
                // SAFETY: `rows` starts at a multiple of `BLOCK`, so only this task writes the sums of its blocks of
                // rows.
                let sums = unsafe { scratch.sums.part(block, at.attn_c_attn..at.attn_c_attn + 3 * width) };
                column_sums(sums, values);
            }
            // SAFETY: by this function's contract, no other task uses the rows `rows` or the sums of their blocks.
            unsafe { backward_norm(rows, d_residual, d_ln_1, x, statistics, weight, scratch.sums, at) };
        });
    }

    /// Computes `out = mask(values)`.
    fn masked_copy(&self, out: &mut [f32], values: &[f32], site: Site, start: usize) {
        out.copy_from_slice(values);
        if let Some(mask) = self.dropout.mask(self.layer, site.into()) {
            for (index, out) in out.chunks_mut(self.width).enumerate() {
                mask.apply(out, start + index, self.width);
            }
        }
    }
}

/// Backward through the LayerNorm before a block's attention. The last LayerNorm of the model uses the same columns of
/// the sums.
///
/// # Safety
/// No other task uses the rows `rows`, or the sums of their blocks of rows, during the call.
#[expect(clippy::too_many_arguments, reason = "a LayerNorm has them")]
pub(crate) unsafe fn backward_norm(
    rows: Range<usize>,
    dx: &mut [f32],
    dout: &[f32],
    x: &[f32],
    statistics: &[Statistics],
    weight: &[f32],
    sums: DisjointRows<'_, f32>,
    at: &SumColumns,
) {
    let width = weight.len();
    for (index, start) in (0..rows.len()).step_by(BLOCK).enumerate() {
        let end = rows.len().min(start + BLOCK);
        let part = start * width..end * width;
        let block = rows.start / BLOCK + index;
        // SAFETY: `rows` starts at a multiple of `BLOCK`, so only this task writes the sums of its blocks of rows.
        let sums = unsafe { sums.part(block, at.ln_1_weight..at.ln_1_weight + 2 * width) };
        let (dweight, dbias) = sums.split_at_mut(width);
        layer_norm::backward(
            &mut dx[part.clone()],
            &dout[part.clone()],
            &x[part],
            &statistics[start..end],
            weight,
            dweight,
            dbias,
        );
    }
}

/// Computes `values = base + mask(values)` for one row.
fn add_residual(values: &mut [f32], base: &[f32], mask: Option<&Mask>, row: usize) {
    match mask {
        Some(mask) => mask.apply_and_add(values, base, row),
        None => {
            for (value, base) in values.iter_mut().zip(base) {
                *value += base;
            }
        }
    }
}
