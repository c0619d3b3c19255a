//! Packing of weights: once per pass, for all rows.

use crate::gpt2::layout::LayerViews;
use crate::gpt2::settings::Gpt2Config;
use crate::ops::affine::Affine;
use crate::ops::linear;
use keepstep_numerics::matmul::{AlignedBuffer, PackTask, PackedMatrix, Packing};

/// The packed weights of the matmuls between one block's attention and the next one's. Where a weight is not packed,
/// its matmul reads it in place.
#[derive(Debug, Default)]
pub(crate) struct PackedWeights<'a> {
    pub(crate) attn_c_proj: Option<PackedMatrix<'a>>,
    pub(crate) mlp_c_fc: Option<PackedMatrix<'a>>,
    pub(crate) mlp_c_proj: Option<PackedMatrix<'a>>,
    /// The weight of the next block's queries, keys and values.
    pub(crate) attn_c_attn: Option<PackedMatrix<'a>>,
}

/// The form of a weight `[in, out]` that a matmul reads: the weight itself forward, its transpose backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Forward,
    Backward,
}

/// Packs the weights of one pass, one block at a time.
pub(crate) struct Packer {
    packing: Option<Packing>,
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

impl Packer {
    pub(crate) fn new(packing: Option<Packing>, pass: Pass) -> Packer {
        Packer { packing, pass }
    }

    /// Returns the packed weights after the attention of `block` and before that of `next`, and the tasks that pack
    /// them. They can be read when all tasks are done.
    pub(crate) fn pack<'a>(
        &self,
        buffer: &'a mut AlignedBuffer,
        block: Option<&LayerViews<&'a [f32]>>,
        next: Option<&LayerViews<&'a [f32]>>,
    ) -> (PackedWeights<'a>, Vec<PackTask<'a>>) {
        let mut pack_tasks = Vec::new();
        let mut room = buffer.as_mut_floats();
        let mut pack = |affine: Option<&Affine<&'a [f32]>>| {
            let (affine, packing) = (affine?, self.packing?);
            let weight = linear::weight(affine);
            let (own, rest) =
                std::mem::take(&mut room).split_at_mut(matrix_len(weight.rows(), affine.bias.len()));
            room = rest;
            let weight = if self.pass == Pass::Forward { weight } else { weight.transposed() };
            Some(packing.pack(own, weight, &mut pack_tasks))
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
