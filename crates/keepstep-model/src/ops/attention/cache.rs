//! The attention of one position of one sequence over cached keys and values, for decoding.

use super::{Attention, BLOCK, Qkv};
use crate::ops::softmax::{RowSoftmax, finish, online};
use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut, prefetch_all, serial_matmul};
use rayon::prelude::*;

/// Tokens from which on heads are written on several threads.
const PARALLEL_TOKENS: usize = 8;

/// The keys and values of one sequence in one block of the model, in the order in which attention reads them.
pub(crate) struct KeyValueCache {
    attention: Attention,
    /// `[n_head, blocks of positions, head_size, BLOCK]`
    keys: Vec<f32>,
    /// `[n_head, positions, head_size]`
    values: Vec<f32>,
    /// Numbers of each head, in whole blocks of positions.
    head_len: usize,
}

impl KeyValueCache {
    /// Creates a cache with room for `capacity` positions. Memory that is not written is not taken.
    pub(crate) fn new(attention: Attention, capacity: usize) -> KeyValueCache {
        let head_len = capacity.next_multiple_of(BLOCK) * attention.head_size;
        let zeros = || vec![0.0; attention.n_head * head_len];
        KeyValueCache { attention, keys: zeros(), values: zeros(), head_len }
    }

    /// The numbers that a cache holds.
    pub(crate) fn len(attention: &Attention, capacity: usize) -> usize {
        2 * capacity.next_multiple_of(BLOCK) * attention.n_embd
    }

    /// Copies the first `len` positions.
    pub(crate) fn fork(&self, capacity: usize, len: usize) -> KeyValueCache {
        let mut fork = KeyValueCache::new(self.attention, capacity);
        let filled = len.next_multiple_of(BLOCK) * self.attention.head_size;
        for (to, from) in [(&mut fork.keys, &self.keys), (&mut fork.values, &self.values)] {
            for (to, from) in to.chunks_mut(self.head_len).zip(from.chunks(self.head_len)) {
                to[..filled].copy_from_slice(&from[..filled]);
            }
        }
        fork
    }

    pub(crate) fn num_heads(&self) -> usize {
        self.attention.n_head
    }

    pub(crate) fn head_size(&self) -> usize {
        self.attention.head_size
    }

    /// Writes the keys and values of rows `[3 * n_embd]` to the positions from `place` on.
    pub(crate) fn write(&mut self, place: usize, qkv: &[f32]) {
        let (size, width) = (self.attention.head_size, self.attention.n_embd);
        let write_head = |head: usize, keys: &mut [f32], values: &mut [f32]| {
            for (place, row) in (place..).zip(qkv.chunks_exact(3 * width)) {
                let part = |part: Qkv| &row[part as usize * width + head * size..][..size];
                values[place * size..][..size].copy_from_slice(part(Qkv::Value));
                let column = &mut keys[place / BLOCK * BLOCK * size + place % BLOCK..];
                for (to, key) in column.iter_mut().step_by(BLOCK).zip(part(Qkv::Key)) {
                    *to = *key;
                }
            }
        };
        let heads = self.head_len.max(1);
        if qkv.len() < PARALLEL_TOKENS * 3 * width {
            let heads = self.keys.chunks_mut(heads).zip(self.values.chunks_mut(heads)).enumerate();
            heads.for_each(|(head, (keys, values))| write_head(head, keys, values));
        } else {
            let heads = self.keys.par_chunks_mut(heads).zip(self.values.par_chunks_mut(heads)).enumerate();
            heads.for_each(|(head, (keys, values))| write_head(head, keys, values));
        }
    }

    /// Computes the attention of some heads from `first` on at one position, over the positions up to that one, with
    /// the bits of the forward pass. `qkv` is the position's row.
    ///
    /// The forward pass includes the later keys of the last block with weights of 0, which add nothing.
    pub(crate) fn attend(&self, out: &mut [f32], qkv: &[f32], first: usize, place: usize) {
        for (head, out) in (first..).zip(out.chunks_mut(self.attention.head_size)) {
            self.attend_head(out, qkv, head, place);
        }
    }

    fn attend_head(&self, out: &mut [f32], qkv: &[f32], head: usize, place: usize) {
        let size = self.attention.head_size;
        let keys = self.keys[head * self.head_len..].chunks_exact(BLOCK * size);
        let values = self.values[head * self.head_len..].chunks_exact(BLOCK * size);
        let query = Matrix::new(&qkv[Qkv::Query as usize * self.attention.n_embd + head * size..], 1, size);
        let mut running = [RowSoftmax::EMPTY];
        for (first, (keys, values)) in (0..=place).step_by(BLOCK).zip(keys.zip(values)) {
            // Scores of positions that are not filled are not used.
            let mut scores = [0.0; BLOCK];
            let count = BLOCK.min(place + 1 - first);
            prefetch_all(&values[..count * size]);
            let keys = Matrix::new(keys, size, BLOCK);
            serial_matmul(MatrixMut::new(&mut scores, 1, BLOCK), Accumulate::Replace, query, keys);
            let scores = &mut scores[..count];
            online(scores, count, false, self.attention.scale, &mut running, out);
            serial_matmul(
                MatrixMut::new(out, 1, size),
                if first == 0 { Accumulate::Replace } else { Accumulate::Add },
                Matrix::new(scores, 1, count),
                Matrix::new(values, count, size),
            );
        }
        finish(&mut running, out);
    }
}
