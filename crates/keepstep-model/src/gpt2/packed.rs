//! Packing of weights: once per pass, for all rows.

use crate::gpt2::layout::LayerViews;
use crate::gpt2::settings::Gpt2Config;
use crate::ops::affine::Affine;
use crate::ops::linear;
use keepstep_numerics::matmul::{AlignedBuffer, PackBuffer, PackTask, PackedRhs, Packing};

/// The packed weights of the matmuls between one block's attention and the next one's. Where a weight is not packed,
/// its matmul reads it in place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PackedWeights<'a> {
    pub(crate) attn_c_proj: Option<PackedRhs<'a>>,
    pub(crate) mlp_c_fc: Option<PackedRhs<'a>>,
    pub(crate) mlp_c_proj: Option<PackedRhs<'a>>,
    /// The weight of the next block's queries, keys and values.
    pub(crate) attn_c_attn: Option<PackedRhs<'a>>,
}

/// The form of a weight `[in, out]` that a matmul reads: the weight itself forward, its transpose backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Forward,
    Backward,
}

/// Packs the weights of one pass, one block at a time, into the same buffer.
pub(crate) struct Packer<'a> {
    packing: Option<Packing>,
    buffer: PackBuffer<'a>,
    pass: Pass,
}

/// The length of the buffer, in elements of four bytes.
pub(crate) fn room_len(model: &Gpt2Config) -> usize {
    let (width, inner) = (model.n_embd, model.n_inner());
    matrix_len(width, 3 * width) + matrix_len(width, width) + 2 * matrix_len(width, inner)
}

/// The length of a packed matrix in the pass that needs more room.
fn matrix_len(ins: usize, outs: usize) -> usize {
    Packing::max_len(ins, outs).max(Packing::max_len(outs, ins)).next_multiple_of(16)
}

impl<'a> Packer<'a> {
    pub(crate) fn new(packing: Option<Packing>, buffer: &'a mut AlignedBuffer, pass: Pass) -> Packer<'a> {
        Packer { packing, buffer: PackBuffer::new(buffer), pass }
    }

    /// Returns the packed weights after the attention of `block` and before that of `next`, and the tasks that pack
    /// them.
    ///
    /// # Safety
    /// No task reads the previous packed weights any more. The new ones are read only after all pack tasks are done.
    pub(crate) unsafe fn pack(
        &self,
        block: Option<&LayerViews<&'a [f32]>>,
        next: Option<&LayerViews<&'a [f32]>>,
    ) -> (PackedWeights<'a>, Vec<PackTask<'a>>) {
        let mut pack_tasks = Vec::new();
        let mut first = 0;
        let mut pack = |affine: Option<&Affine<&'a [f32]>>| {
            let (affine, packing) = (affine?, self.packing?);
            let weight = linear::weight(affine);
            let len = matrix_len(weight.rows(), affine.bias.len());
            let weight = if self.pass == Pass::Forward { weight } else { weight.transposed() };
            // SAFETY: each matrix has its own range of the buffer. By this function's contract, nothing reads the old
            // contents, and the new ones are read only after the pack tasks.
            let packed = unsafe { packing.pack(&self.buffer, first, weight, &mut pack_tasks) };
            first += len;
            Some(packed)
        };
        let packed = PackedWeights {
            attn_c_proj: pack(block.map(|block| &block.attn_c_proj)),
            mlp_c_fc: pack(block.map(|block| &block.mlp_c_fc)),
            mlp_c_proj: pack(block.map(|block| &block.mlp_c_proj)),
            attn_c_attn: pack(next.map(|next| &next.attn_c_attn)),
        };
        (packed, pack_tasks)
    }
}
