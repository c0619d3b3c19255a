//! The row-wise operations of a transformer block, before and after its attention, forward and backward. Each task
//! takes a range of rows through all of them, and the rows stay in the caches.

use crate::gpt2::buffers::{
    AfterAttentionRows, BackwardRows, BeforeAttention, BeforeAttentionRows, GradientRows, ScratchRows,
    SumColumns,
};
use crate::gpt2::dropout_site::Site;
use crate::gpt2::layout::LayerViews;
use crate::gpt2::packed::PackedWeights;
use crate::ops::add::add_to;
use crate::ops::affine::Affine;
use crate::ops::dropout::{Dropout, Mask};
use crate::ops::gelu;
use crate::ops::layer_norm::{self, Statistics};
use crate::ops::linear::{backward_rows, column_sums, forward_rows};
use crate::ops::rows::{BLOCK, with_buffer};
use keepstep_numerics::matmul::MatmulKind;
use std::ops::Range;

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

/// Each method takes a task's rows of the buffers. The packed weights are those of this block and of this pass.
impl BlockAt<'_> {
    /// Computes LayerNorm and the queries, keys and values.
    pub(crate) fn before_attention(
        &self,
        x: &[f32],
        before: &mut BeforeAttentionRows<'_>,
        scratch: &mut ScratchRows<'_>,
        packed: &PackedWeights<'_>,
    ) {
        let BeforeAttentionRows { ln_1_statistics, qkv } = before;
        let ScratchRows { ln_1, .. } = scratch;
        layer_norm::forward(ln_1, ln_1_statistics, x, &self.weights.ln_1, self.epsilon);
        forward_rows(self.matmul_kind, qkv, ln_1, &self.weights.attn_c_attn, packed.attn_c_attn.as_ref());
    }

    /// Computes the attention's projection, the second LayerNorm and the MLP's first layer. With `out`, it also
    /// computes the rest of the block.
    pub(crate) fn after_attention(
        &self,
        rows: Range<usize>,
        x: &[f32],
        out: Option<&mut [f32]>,
        after: &mut AfterAttentionRows<'_>,
        scratch: &mut ScratchRows<'_>,
        packed: &PackedWeights<'_>,
    ) {
        let AfterAttentionRows { attention, middle, ln_2_statistics, fc } = after;
        let ScratchRows { ln_2, gelu: active, .. } = scratch;
        let (weights, kind, cols) = (self.weights, self.matmul_kind, self.width);
        forward_rows(kind, middle, attention, &weights.attn_c_proj, packed.attn_c_proj.as_ref());
        let mask = self.dropout.mask(self.layer, Site::AttentionOutput.into());
        add_residual(middle, x, mask.as_ref(), rows.start, cols);
        layer_norm::forward(ln_2, ln_2_statistics, middle, &weights.ln_2, self.epsilon);
        forward_rows(kind, fc, ln_2, &weights.mlp_c_fc, packed.mlp_c_fc.as_ref());
        let Some(out) = out else { return };
        gelu::gelu(active, fc);
        forward_rows(kind, out, active, &weights.mlp_c_proj, packed.mlp_c_proj.as_ref());
        let mask = self.dropout.mask(self.layer, Site::MlpOutput.into());
        add_residual(out, middle, mask.as_ref(), rows.start, cols);
    }

    /// Backward through the MLP and the attention's projection. Reads dL/d(block output) from `d_residual`. Leaves
    /// dL/d(residual stream after the attention) there, and dL/d(attention output) in `d_attention`.
    pub(crate) fn backward_after_attention(
        &self,
        rows: Range<usize>,
        after: &mut AfterAttentionRows<'_>,
        (scratch, gradients): &mut BackwardRows<'_>,
        packed: &PackedWeights<'_>,
        at: &SumColumns,
    ) {
        let AfterAttentionRows { middle, ln_2_statistics: statistics, fc, .. } = after;
        let ScratchRows { ln_2, gelu: active, .. } = scratch;
        let GradientRows { d_residual, d_mlp, d_projection, d_attention, sums } = gradients;
        let (weights, kind) = (self.weights, self.matmul_kind);
        let (width, inner) = (self.width, self.inner);
        self.masked_copy(d_mlp, d_residual, Site::MlpOutput, rows.start);
        with_buffer(rows.len() * inner, |d_active| {
            backward_rows(kind, d_active, d_mlp, &weights.mlp_c_proj, packed.mlp_c_proj.as_ref());
            gelu::backward(fc, active, d_active);
        });
        let Affine { weight, bias } = &weights.ln_2;
        layer_norm::again(ln_2, middle, statistics, weight, bias);
        with_buffer(rows.len() * width, |d_ln_2| {
            backward_rows(kind, d_ln_2, fc, &weights.mlp_c_fc, packed.mlp_c_fc.as_ref());
            for (start, sums) in (0..rows.len()).step_by(BLOCK).zip(sums.chunks_mut(at.all)) {
                let end = rows.len().min(start + BLOCK);
                let part = start * width..end * width;
                column_sums(&mut sums[at.mlp_c_proj..][..width], &d_mlp[part.clone()]);
                column_sums(&mut sums[at.mlp_c_fc..][..inner], &fc[start * inner..end * inner]);
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
        backward_rows(kind, d_attention, d_projection, &weights.attn_c_proj, packed.attn_c_proj.as_ref());
        for (values, sums) in d_projection.chunks(BLOCK * width).zip(sums.chunks_mut(at.all)) {
            column_sums(&mut sums[at.attn_c_proj..][..width], values);
        }
    }

    /// Backward through the queries, keys and values and the first LayerNorm. Reads dL/d(qkv), and leaves
    /// dL/d(block input) in `d_residual`.
    pub(crate) fn backward_before_attention(
        &self,
        rows: &Range<usize>,
        x: &[f32],
        before: &BeforeAttention,
        (scratch, gradients): &mut BackwardRows<'_>,
        packed: &PackedWeights<'_>,
        at: &SumColumns,
    ) {
        let (statistics, d_qkv) = (before.ln_1_statistics.rows(rows), before.qkv.rows(rows));
        let ScratchRows { ln_1, .. } = scratch;
        let GradientRows { d_residual, sums, .. } = gradients;
        let (weights, width) = (self.weights, self.width);
        let Affine { weight, bias } = &weights.ln_1;
        layer_norm::again(ln_1, x, statistics, weight, bias);
        with_buffer(rows.len() * width, |d_ln_1| {
            let packed = packed.attn_c_attn.as_ref();
            backward_rows(self.matmul_kind, d_ln_1, d_qkv, &weights.attn_c_attn, packed);
            for (values, sums) in d_qkv.chunks(BLOCK * 3 * width).zip(sums.chunks_mut(at.all)) {
                column_sums(&mut sums[at.attn_c_attn..][..3 * width], values);
            }
            backward_norm(d_residual, d_ln_1, x, statistics, weight, sums, at);
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
pub(crate) fn backward_norm(
    dx: &mut [f32],
    dout: &[f32],
    x: &[f32],
    statistics: &[Statistics],
    weight: &[f32],
    sums: &mut [f32],
    at: &SumColumns,
) {
    let width = weight.len();
    let blocks = statistics.chunks(BLOCK).zip(sums.chunks_mut(at.all)).enumerate();
    for (index, (statistics, sums)) in blocks {
        let start = index * BLOCK;
        let part = start * width..(start + statistics.len()) * width;
        let (dweight, dbias) = sums[at.ln_1_weight..][..2 * width].split_at_mut(width);
        layer_norm::backward(
            &mut dx[part.clone()],
            &dout[part.clone()],
            &x[part],
            statistics,
            weight,
            dweight,
            dbias,
        );
    }
}

/// Computes `values = base + mask(values)` for rows of `cols` numbers from `start` on.
fn add_residual(values: &mut [f32], base: &[f32], mask: Option<&Mask>, start: usize, cols: usize) {
    match mask {
        Some(mask) => {
            for ((values, base), row) in values.chunks_mut(cols).zip(base.chunks(cols)).zip(start..) {
                mask.apply_and_add(values, base, row);
            }
        }
        None => add_to(values, base),
    }
}
