//! Causal multi-head attention, one block of queries by one block of keys at a time. The whole matrix of attention
//! weights never exists.
//!
//! The forward pass keeps a running maximum and sum of each row (Milakov and Gimelshein, "Online normalizer calculation
//! for softmax", 2018) and saves them. The backward pass computes each block of weights again from them (Dao et al.,
//! "FlashAttention", 2022). Both skip blocks of keys that lie after the queries.
//!
//! - `forward`, `backward`: a micro-batch's attention.
//! - `cache`: that of one position, for decoding.

mod backward;
mod cache;
mod forward;

pub(crate) use backward::HeadColumns;
pub(crate) use cache::KeyValueCache;

use crate::ops::dropout::Mask;
use keepstep_numerics::matmul::Matrix;

/// The number of queries and of keys in a block. Part of the numerics: sums over keys are made block by block, as are
/// sums over queries in the gradients of keys and values.
const BLOCK: usize = 64;

/// The sizes of one micro-batch's attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    block_size: usize,
    n_head: usize,
    n_embd: usize,
    head_size: usize,
    /// 1 / sqrt(head_size)
    scale: f32,
}

/// The three parts of a row of `qkv`.
#[derive(Clone, Copy)]
enum Qkv {
    Query = 0,
    Key = 1,
    Value = 2,
}

/// The queries `start..end` of one head in one sequence. `head` counts over the whole micro-batch.
#[derive(Clone, Copy)]
struct Queries {
    head: usize,
    start: usize,
    end: usize,
}

impl Attention {
    pub(crate) fn new(block_size: usize, n_head: usize, n_embd: usize) -> Attention {
        let head_size = n_embd / n_head;
        Attention { block_size, n_head, n_embd, head_size, scale: 1.0 / (head_size as f32).sqrt() }
    }

    /// Returns the number of heads in a micro-batch of `rows` rows, counted over all sequences.
    pub(crate) fn num_heads(&self, rows: usize) -> usize {
        rows / self.block_size * self.n_head
    }

    /// Applies dropout to a block of weights whose keys begin at `first`. A weight's element of the mask is given by
    /// its query and its key.
    fn drop(&self, weights: &mut [f32], mask: &Mask, queries: Queries, first: usize) {
        let keys = weights.len() / (queries.end - queries.start);
        for (row, weights) in weights.chunks_mut(keys).enumerate() {
            let row = queries.head * self.block_size + queries.start + row;
            mask.apply_from(weights, row, self.block_size, first);
        }
    }

    fn part<'a>(&self, qkv: &'a [f32], head: usize, part: Qkv, start: usize, end: usize) -> Matrix<'a> {
        self.rows_of(qkv, 3 * self.n_embd, head, part as usize * self.n_embd, start, end)
    }

    /// Returns positions `start..end` of one head in one sequence. `head` counts over the whole micro-batch.
    fn rows_of<'a>(
        &self,
        values: &'a [f32],
        stride: usize,
        head: usize,
        first: usize,
        start: usize,
        end: usize,
    ) -> Matrix<'a> {
        let (batch, head) = (head / self.n_head, head % self.n_head);
        let from = (batch * self.block_size + start) * stride + first + head * self.head_size;
        Matrix::strided(&values[from..], end - start, self.head_size, stride)
    }
}
