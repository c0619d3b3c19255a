//! The weights between two attentions, packed once for all rows of a pass.

use crate::gpt2::layout::{Affine, LayerViews};
use crate::gpt2::settings::ModelConfig;
use crate::ops::linear;
use keepstep_numerics::matmul::aligned::Lines;
use keepstep_numerics::matmul::packed::{Packed, Packing, Piece, Room};

/// What the products after one block's attention, and before the next one's, read. Where nothing is packed, they read the
/// weights where they lie.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PackedWeights<'a> {
    pub(crate) attn_c_proj: Option<Packed<'a>>,
    pub(crate) mlp_c_fc: Option<Packed<'a>>,
    pub(crate) mlp_c_proj: Option<Packed<'a>>,
    /// Of the next block.
    pub(crate) attn_c_attn: Option<Packed<'a>>,
}

/// Which product of a weight `[in, out]`: with itself, or with its transpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Forward,
    Backward,
}

/// Packs one pass's weights, a block's at a time, into the same room.
pub(crate) struct Packer<'a> {
    packing: Option<Packing>,
    room: Room<'a>,
    pass: Pass,
}

/// The numbers of four bytes that the room has.
pub(crate) fn room_len(model: &ModelConfig) -> usize {
    let (width, inner) = (model.n_embd, model.n_inner());
    matrix_len(width, 3 * width) + matrix_len(width, width) + 2 * matrix_len(width, inner)
}

/// For the longer of both passes.
fn matrix_len(ins: usize, outs: usize) -> usize {
    Packing::max_len(ins, outs).max(Packing::max_len(outs, ins)).next_multiple_of(16)
}

impl<'a> Packer<'a> {
    pub(crate) fn new(packing: Option<Packing>, room: &'a mut Lines, pass: Pass) -> Packer<'a> {
        Packer { packing, room: Room::new(room), pass }
    }

    /// The weights after the attention of `block` and before that of `next`, and the work of packing them.
    ///
    /// # Safety
    /// What was packed before is read no more, and what is packed now is read after all pieces are done.
    pub(crate) unsafe fn pack(
        &self,
        block: Option<&LayerViews<&'a [f32]>>,
        next: Option<&LayerViews<&'a [f32]>>,
    ) -> (PackedWeights<'a>, Vec<Piece<'a>>) {
        let mut pieces = Vec::new();
        let mut first = 0;
        let mut pack = |affine: Option<&Affine<&'a [f32]>>| {
            let (affine, packing) = (affine?, self.packing?);
            let weight = linear::weight(affine);
            let len = matrix_len(weight.rows(), affine.bias.len());
            let weight = if self.pass == Pass::Forward { weight } else { weight.transposed() };
            // SAFETY: each matrix has its own part of the room; the rest is the caller's.
            let packed = unsafe { packing.pack(&self.room, first, weight, &mut pieces) };
            first += len;
            Some(packed)
        };
        let packed = PackedWeights {
            attn_c_proj: pack(block.map(|block| &block.attn_c_proj)),
            mlp_c_fc: pack(block.map(|block| &block.mlp_c_fc)),
            mlp_c_proj: pack(block.map(|block| &block.mlp_c_proj)),
            attn_c_attn: pack(next.map(|next| &next.attn_c_attn)),
        };
        (packed, pieces)
    }
}
