//! Packs the weights between two attentions once for all rows of a pass.

use crate::gpt2::layout::LayerViews;
use crate::gpt2::settings::Gpt2Config;
use crate::ops::affine::Affine;
use crate::ops::linear;
use keepstep_numerics::matmul::{AlignedBuffer, PackBuffer, PackTask, PackedRhs, Packing};

/// The packed weights of the matmuls between one block's attention and the next one's. Where nothing is packed, they read
/// the weights in place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PackedWeights<'a> {
    pub(crate) attn_c_proj: Option<PackedRhs<'a>>,
    pub(crate) mlp_c_fc: Option<PackedRhs<'a>>,
    pub(crate) mlp_c_proj: Option<PackedRhs<'a>>,
    /// Of the next block.
    pub(crate) attn_c_attn: Option<PackedRhs<'a>>,
}

/// Which form of a weight `[in, out]` a matmul reads: itself forward, its transpose backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Forward,
    Backward,
}

/// Packs one pass's weights, a block's at a time, into the same buffer.
pub(crate) struct Packer<'a> {
    packing: Option<Packing>,
    buffer: PackBuffer<'a>,
    pass: Pass,
}

/// The length of the buffer, in numbers of four bytes.
pub(crate) fn room_len(model: &Gpt2Config) -> usize {
    let (width, inner) = (model.n_embd, model.n_inner());
    matrix_len(width, 3 * width) + matrix_len(width, width) + 2 * matrix_len(width, inner)
}

/// The length of a packed matrix in the pass that needs more.
fn matrix_len(ins: usize, outs: usize) -> usize {
    Packing::max_len(ins, outs).max(Packing::max_len(outs, ins)).next_multiple_of(16)
}

impl<'a> Packer<'a> {
    pub(crate) fn new(packing: Option<Packing>, buffer: &'a mut AlignedBuffer, pass: Pass) -> Packer<'a> {
        Packer { packing, buffer: PackBuffer::new(buffer), pass }
    }

    /// The weights after the attention of `block` and before that of `next`, and the work of packing them.
    ///
    /// # Safety
    /// Nothing reads the weights that were packed before. The new ones are read after all pack tasks are done.
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
            // SAFETY: each matrix has its own range of the buffer. The caller guarantees the order of writing and reading.
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
