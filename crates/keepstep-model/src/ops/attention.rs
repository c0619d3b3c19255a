//! Causal multi-head attention, one block of queries by one block of keys at a time. The whole matrix of attention
//! weights never exists.
//!
//! The forward pass keeps a running maximum and sum of each row (Milakov and Gimelshein, "Online normalizer calculation
//! for softmax", 2018) and saves them. The backward pass computes each block of weights again from them (Dao et al.,
//! "FlashAttention", 2022). Both skip blocks of keys that lie after the queries.

use crate::ops::dropout::Mask;
use crate::ops::rows::{DisjointRows, for_each_in_order, with_buffer};
use crate::ops::softmax::RowSoftmax;
use keepstep_numerics::math::exp;
use keepstep_numerics::matmul::PackTask;
use keepstep_numerics::matmul::matvec::matvec;
use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut, serial_matmul};
use keepstep_numerics::reduce::{max, sum};
use keepstep_numerics::vectorized;

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

    /// Writes the attention of `rows` rows to `out`, and the softmax of each row to `softmax`, `[heads, block_size]`.
    /// The same threads also run `pack_tasks`.
    ///
    /// # Safety
    /// No other task uses `out` or `softmax`, or writes to `qkv`, until this returns.
    pub(crate) unsafe fn forward_shared(
        &self,
        rows: usize,
        qkv: DisjointRows<'_, f32>,
        out: DisjointRows<'_, f32>,
        softmax: DisjointRows<'_, RowSoftmax>,
        mask: Option<Mask>,
        pack_tasks: Vec<PackTask<'_>>,
    ) {
        enum Job<'a> {
            Pack(PackTask<'a>),
            Queries(Queries),
        }
        let blocks = self.block_size.div_ceil(BLOCK);
        let tasks = self.num_heads(rows) * blocks;
        // SAFETY: by this function's contract, no task writes to `qkv` until this returns.
        let qkv = unsafe { qkv.read(0..rows) };
        let queries = (0..tasks).map(|task| {
            let (head, start) = (task / blocks, task % blocks * BLOCK);
            Job::Queries(Queries { head, start, end: self.block_size.min(start + BLOCK) })
        });
        let jobs = pack_tasks.into_iter().map(Job::Pack).chain(queries).collect();
        for_each_in_order(jobs, |job| match job {
            Job::Pack(task) => task.run(),
            Job::Queries(queries) => {
                self.forward_block(queries, out, softmax, qkv, mask.as_ref());
            }
        });
    }

    fn forward_block(
        &self,
        queries: Queries,
        out: DisjointRows<'_, f32>,
        softmax: DisjointRows<'_, RowSoftmax>,
        qkv: &[f32],
        mask: Option<&Mask>,
    ) {
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
                online(scores, keys, first == start, self.scale, running, sums);
                if let Some(mask) = mask {
                    self.drop(scores, mask, queries, first);
                }
                serial_matmul(
                    MatrixMut::new(sums, rows, width),
                    if first == 0 { Accumulate::Replace } else { Accumulate::Add },
                    Matrix::new(scores, rows, keys),
                    self.part(qkv, head, Qkv::Value, first, first + keys),
                );
            }
            finish(running, sums);
            // SAFETY: each task has one block of queries of one head, and these are the rows of those queries.
            unsafe { softmax.rows(head * self.block_size + start..head * self.block_size + end) }
                .copy_from_slice(running);
            self.write(out, head, 0, start, sums);
        });
    }

    /// Replaces the queries, keys and values of one head by their gradients. `attended` is the output of the forward
    /// pass, and `dout` is its gradient.
    ///
    /// # Safety
    /// No other task uses this head's columns of `qkv` during the call.
    pub(crate) unsafe fn backward_head(
        &self,
        head: usize,
        qkv: DisjointRows<'_, f32>,
        attended: &[f32],
        dout: &[f32],
        softmax: &[RowSoftmax],
        mask: Option<&Mask>,
    ) {
        let (size, width) = (self.block_size, self.head_size);
        // Copies of the head's queries, keys and values, which `qkv` loses; gradients of keys and values; two blocks of
        // weights; one block of the queries' gradients; and one sum per row.
        with_buffer(5 * size * width + BLOCK * (2 * BLOCK + width + 1), |buffer| {
            let (own, rest) = buffer.split_at_mut(3 * size * width);
            let (dkey, rest) = rest.split_at_mut(size * width);
            let (dvalue, rest) = rest.split_at_mut(size * width);
            let (weights, rest) = rest.split_at_mut(BLOCK * BLOCK);
            let (dweights, rest) = rest.split_at_mut(BLOCK * BLOCK);
            let (dquery, dots) = rest.split_at_mut(BLOCK * width);
            for (part, own) in own.chunks_mut(size * width).enumerate() {
                for (place, own) in own.chunks_mut(width).enumerate() {
                    // SAFETY: by this function's contract, no other task uses this head's columns of `qkv`.
                    own.copy_from_slice(unsafe { self.own_part(qkv, head, part, place) });
                }
            }
            let own = |part: Qkv, start: usize, end: usize| {
                let from = (part as usize * size + start) * width;
                Matrix::new(&own[from..], end - start, width)
            };
            for start in (0..size).step_by(BLOCK) {
                let end = size.min(start + BLOCK);
                let rows = end - start;
                let (dquery, dots) = (&mut dquery[..rows * width], &mut dots[..rows]);
                let dout_block = self.rows_of(dout, self.n_embd, head, 0, start, end);
                for (row, dot) in dots.iter_mut().enumerate() {
                    *dot = dot_of(
                        self.row_of(dout, head, start + row),
                        self.row_of(attended, head, start + row),
                    );
                }
                let softmax = &softmax[head * size + start..head * size + end];
                for first in (0..end).step_by(BLOCK) {
                    let last = end.min(first + BLOCK);
                    let keys = last - first;
                    let weights = &mut weights[..rows * keys];
                    let dweights = &mut dweights[..rows * keys];
                    serial_matmul(
                        MatrixMut::new(weights, rows, keys),
                        Accumulate::Replace,
                        own(Qkv::Query, start, end),
                        own(Qkv::Key, first, last).transposed(),
                    );
                    serial_matmul(
                        MatrixMut::new(dweights, rows, keys),
                        Accumulate::Replace,
                        dout_block,
                        own(Qkv::Value, first, last).transposed(),
                    );
                    let is_diagonal = first == start;
                    match mask {
                        None => {
                            softmax_backward(weights, dweights, keys, is_diagonal, self.scale, softmax, dots)
                        }
                        Some(mask) => with_buffer(rows * keys, |factors| {
                            factors.fill(1.0);
                            self.drop(factors, mask, Queries { head, start, end }, first);
                            softmax_backward_dropped(
                                weights,
                                dweights,
                                factors,
                                keys,
                                is_diagonal,
                                self.scale,
                                softmax,
                                dots,
                            );
                        }),
                    }
                    let (weights, dscores) =
                        (Matrix::new(weights, rows, keys), Matrix::new(dweights, rows, keys));
                    // The diagonal block is the first block that adds to a key's gradient.
                    let into = if is_diagonal { Accumulate::Replace } else { Accumulate::Add };
                    let range = first * width..last * width;
                    serial_matmul(
                        MatrixMut::new(&mut dvalue[range.clone()], keys, width),
                        into,
                        weights.transposed(),
                        dout_block,
                    );
                    serial_matmul(
                        MatrixMut::new(&mut dkey[range], keys, width),
                        into,
                        dscores.transposed(),
                        own(Qkv::Query, start, end),
                    );
                    serial_matmul(
                        MatrixMut::new(dquery, rows, width),
                        if first == 0 { Accumulate::Replace } else { Accumulate::Add },
                        dscores,
                        own(Qkv::Key, first, last),
                    );
                }
                self.write(qkv, head, Qkv::Query as usize * self.n_embd, start, dquery);
            }
            self.write(qkv, head, Qkv::Key as usize * self.n_embd, 0, dkey);
            self.write(qkv, head, Qkv::Value as usize * self.n_embd, 0, dvalue);
        });
    }

    /// Computes the unscaled scores of query rows by keys from `first` on.
    fn scores(&self, scores: &mut [f32], qkv: &[f32], queries: Queries, first: usize) {
        let Queries { head, start, end } = queries;
        let rows = end - start;
        let keys = scores.len() / rows;
        serial_matmul(
            MatrixMut::new(scores, rows, keys),
            Accumulate::Replace,
            self.part(qkv, head, Qkv::Query, start, end),
            self.part(qkv, head, Qkv::Key, first, first + keys).transposed(),
        );
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

    /// Writes rows of one head from position `start` on. The first head's columns begin at `first`.
    fn write(&self, out: DisjointRows<'_, f32>, head: usize, first: usize, start: usize, values: &[f32]) {
        let (batch, head) = (head / self.n_head, head % self.n_head);
        let col = first + head * self.head_size;
        for (row, values) in values.chunks(self.head_size).enumerate() {
            let row = batch * self.block_size + start + row;
            // SAFETY: exactly one task writes a head's columns of one sequence's rows from `start` on.
            unsafe { out.part(row, col..col + self.head_size) }.copy_from_slice(values);
        }
    }

    /// Returns one head's columns of `qkv` at one position.
    ///
    /// # Safety
    /// No other task uses them while the slice lives.
    unsafe fn own_part<'a>(
        &self,
        qkv: DisjointRows<'a, f32>,
        head: usize,
        part: usize,
        place: usize,
    ) -> &'a [f32] {
        let (batch, head) = (head / self.n_head, head % self.n_head);
        let col = part * self.n_embd + head * self.head_size;
        // SAFETY: by this function's contract, no other task uses this head's columns.
        unsafe { qkv.part(batch * self.block_size + place, col..col + self.head_size) }
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

    fn row_of<'a>(&self, values: &'a [f32], head: usize, place: usize) -> &'a [f32] {
        let (batch, head) = (head / self.n_head, head % self.n_head);
        let from = (batch * self.block_size + place) * self.n_embd + head * self.head_size;
        &values[from..from + self.head_size]
    }
}

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

vectorized! {
    /// Replaces the scores of a block of `keys` columns by exp(scale · score - the row's running maximum), and rescales
    /// the earlier sums to the new maximum. On the diagonal, row r sees r + 1 keys.
    fn online(
        scores: &mut [f32], keys: usize, is_diagonal: bool, scale: f32, running: &mut [RowSoftmax], sums: &mut [f32],
    ) {
        let width = sums.len() / running.len();
        let rows = scores.chunks_exact_mut(keys).zip(sums.chunks_exact_mut(width)).zip(running);
        for (row, ((scores, sums), running)) in rows.enumerate() {
            let (seen, later) = scores.split_at_mut(if is_diagonal { row + 1 } else { keys });
            for score in seen.iter_mut() {
                *score *= scale;
            }
            let before = *running;
            let here = max(seen);
            let largest = if here > before.largest { here } else { before.largest };
            for score in seen.iter_mut() {
                *score = exp(*score - largest);
            }
            later.fill(0.0);
            let total = sum(seen.len(), |index| seen[index]);
            if before.largest == f32::NEG_INFINITY {
                *running = RowSoftmax { largest, total };
            } else {
                let factor = exp(before.largest - largest);
                *running = RowSoftmax { largest, total: before.total.mul_add(factor, total) };
                for sum in sums {
                    *sum *= factor;
                }
            }
        }
    }
}

vectorized! {
    /// Divides the sums by the rows' totals. Adding 0 turns -0 into 0: the sign would depend on how many weights of 0
    /// took part.
    fn finish(running: &mut [RowSoftmax], sums: &mut [f32]) {
        let width = sums.len() / running.len();
        for (running, sums) in running.iter_mut().zip(sums.chunks_exact_mut(width)) {
            running.total = 1.0 / running.total;
            for sum in sums {
                *sum = sum.mul_add(running.total, 0.0);
            }
        }
    }
}

vectorized! {
    fn dot_of(one: &[f32], other: &[f32]) -> f32 {
        let other = &other[..one.len()];
        sum(one.len(), |index| one[index] * other[index])
    }
}

vectorized! {
    /// Replaces scores by weights, and the gradients of weights by those of scores. `dots` holds each row's sum of
    /// weights times their gradients.
    fn softmax_backward(
        weights: &mut [f32], dweights: &mut [f32], keys: usize, is_diagonal: bool, scale: f32, softmax: &[RowSoftmax],
        dots: &[f32],
    ) {
        let rows = weights.chunks_exact_mut(keys).zip(dweights.chunks_exact_mut(keys)).zip(softmax.iter().zip(dots));
        for (row, ((weights, dweights), (softmax, dot))) in rows.enumerate() {
            let seen = if is_diagonal { row + 1 } else { keys };
            for (weight, d) in weights[..seen].iter_mut().zip(&mut dweights[..seen]) {
                *weight = exp(*weight * scale - softmax.largest) * softmax.total;
                *d = *weight * (*d - dot) * scale;
            }
            weights[seen..].fill(0.0);
            dweights[seen..].fill(0.0);
        }
    }
}

vectorized! {
    /// Does the same as `softmax_backward`, for weights that were multiplied by `factors` after the softmax.
    fn softmax_backward_dropped(
        weights: &mut [f32], dweights: &mut [f32], factors: &[f32], keys: usize, is_diagonal: bool, scale: f32,
        softmax: &[RowSoftmax], dots: &[f32],
    ) {
        let rows = weights
            .chunks_exact_mut(keys)
            .zip(dweights.chunks_exact_mut(keys))
            .zip(factors.chunks_exact(keys))
            .zip(softmax.iter().zip(dots));
        for (row, (((weights, dweights), factors), (softmax, dot))) in rows.enumerate() {
            let seen = if is_diagonal { row + 1 } else { keys };
            for ((weight, d), factor) in weights[..seen].iter_mut().zip(&mut dweights[..seen]).zip(factors) {
                let kept = exp(*weight * scale - softmax.largest) * softmax.total;
                *d = kept * (*d * factor - dot) * scale;
                *weight = kept * factor;
            }
            weights[seen..].fill(0.0);
            dweights[seen..].fill(0.0);
        }
    }
}
