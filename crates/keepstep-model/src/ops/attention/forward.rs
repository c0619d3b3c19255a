//! The forward pass, by blocks of queries of all heads.

use super::{Attention, BLOCK, Qkv, Queries};
use crate::ops::dropout::Mask;
use crate::ops::rectangle::Rectangle;
use crate::ops::rows::{for_each_in_order, with_buffer};
use crate::ops::softmax::{RowSoftmax, finish, online};
use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut, PackTask, Triangle, serial_matmul_of};

/// One block of queries of one head, and where its results go.
struct QueryBlock<'a> {
    queries: Queries,
    out: Rectangle<'a, f32>,
    softmax: &'a mut [RowSoftmax],
}

enum Job<'a> {
    Pack(PackTask<'a>),
    Queries(QueryBlock<'a>),
}

impl Attention {
    /// Writes the attention of whole sequences to `out`, and the softmax of each row to `softmax`, `[heads,
    /// block_size]`. The same threads also run `pack_tasks`.
    pub(crate) fn forward(
        &self,
        qkv: &[f32],
        out: &mut [f32],
        softmax: &mut [RowSoftmax],
        mask: Option<Mask>,
        pack_tasks: Vec<PackTask<'_>>,
    ) {
        let queries = (0..softmax.len() / self.block_size).flat_map(|head| {
            let end = |start: usize| self.block_size.min(start + BLOCK);
            (0..self.block_size).step_by(BLOCK).map(move |start| Queries { head, start, end: end(start) })
        });
        let out = out
            .chunks_mut(self.block_size * self.n_embd)
            .flat_map(|sequence| Rectangle::divide(sequence, self.n_embd, BLOCK, self.head_size));
        let softmax = softmax.chunks_mut(self.block_size).flat_map(|head| head.chunks_mut(BLOCK));
        let blocks = queries
            .zip(out)
            .zip(softmax)
            .map(|((queries, out), softmax)| Job::Queries(QueryBlock { queries, out, softmax }));
        let jobs = pack_tasks.into_iter().map(Job::Pack).chain(blocks).collect();
        for_each_in_order(jobs, |job| match job {
            Job::Pack(task) => task.run(),
            Job::Queries(block) => self.forward_block(block, qkv, mask.as_ref()),
        });
    }

    fn forward_block(&self, block: QueryBlock<'_>, qkv: &[f32], mask: Option<&Mask>) {
        let QueryBlock { queries, mut out, softmax } = block;
        let Queries { head, start, end } = queries;
        let (rows, width) = (end - start, self.head_size);
        with_buffer(rows * (BLOCK + width), |buffer| {
            let (scores, sums) = buffer.split_at_mut(rows * BLOCK);
            let mut running = [RowSoftmax::EMPTY; BLOCK];
            let running = &mut running[..rows];
            for first in (0..end).step_by(BLOCK) {
                let keys = end.min(first + BLOCK) - first;
                let scores = &mut scores[..rows * keys];
                self.scores(scores, qkv, queries, first);
                let is_diagonal = first == start;
                online(scores, keys, is_diagonal, self.scale, running, sums);
                if let Some(mask) = mask {
                    self.drop(scores, mask, queries, first);
                }
                // `finish` makes the sign of zeros the same.
                serial_matmul_of(
                    Triangle::LowerLeft.on_diagonal(is_diagonal),
                    MatrixMut::new(sums, rows, width),
                    if first == 0 { Accumulate::Replace } else { Accumulate::Add },
                    Matrix::new(scores, rows, keys),
                    self.part(qkv, head, Qkv::Value, first, first + keys),
                );
            }
            finish(running, sums);
            softmax.copy_from_slice(running);
            for (row, sums) in sums.chunks(width).enumerate() {
                out.row_mut(row).copy_from_slice(sums);
            }
        });
    }

    /// Computes the unscaled scores of query rows by keys from `first` on.
    fn scores(&self, scores: &mut [f32], qkv: &[f32], queries: Queries, first: usize) {
        let Queries { head, start, end } = queries;
        let rows = end - start;
        let keys = scores.len() / rows;
        serial_matmul_of(
            Triangle::Result.on_diagonal(first == start),
            MatrixMut::new(scores, rows, keys),
            Accumulate::Replace,
            self.part(qkv, head, Qkv::Query, start, end),
            self.part(qkv, head, Qkv::Key, first, first + keys).transposed(),
        );
    }
}
