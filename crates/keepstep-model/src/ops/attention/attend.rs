//! The attention of one position of one sequence, for decoding.

use super::{Attention, BLOCK, Qkv};
use crate::ops::softmax::{RowSoftmax, finish, online};
use keepstep_numerics::matmul::matvec::matvec;
use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut, serial_matmul};

impl Attention {
    /// Computes the attention at one position of one sequence, over `qkv [block_size, 3 * n_embd]` up to that position,
    /// with the bits of the forward pass.
    ///
    /// The forward pass includes the later keys of the last block with weights of 0, which add nothing.
    pub(crate) fn attend(&self, out: &mut [f32], qkv: &[f32], place: usize) {
        for (head, out) in out.chunks_mut(self.head_size).enumerate() {
            self.attend_head(out, qkv, head, place);
        }
    }

    /// Computes the attention at one position for one head.
    pub(crate) fn attend_head(&self, out: &mut [f32], qkv: &[f32], head: usize, place: usize) {
        let (width, size) = (self.n_embd, self.head_size);
        let mut scores = [0.0; BLOCK];
        let mut running = [RowSoftmax::EMPTY];
        let at = |part: Qkv, place: usize| &qkv[(3 * place + part as usize) * width + head * size..];
        let query = &at(Qkv::Query, place)[..size];
        for first in (0..=place).step_by(BLOCK) {
            let last = (place + 1).min(first + BLOCK);
            let scores = &mut scores[..last - first];
            matvec(scores, query, at(Qkv::Key, first), 3 * width);
            online(scores, last - first, false, self.scale, &mut running, out);
            serial_matmul(
                MatrixMut::new(out, 1, size),
                if first == 0 { Accumulate::Replace } else { Accumulate::Add },
                Matrix::new(scores, 1, last - first),
                self.part(qkv, head, Qkv::Value, first, last),
            );
        }
        finish(&mut running, out);
    }
}
