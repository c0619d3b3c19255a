//! Causal multi-head attention. Weights are never kept: the backward pass computes them again, a block of rows at a time.

use super::ROWS;
use super::dropout::Mask;
use crate::model::ModelConfig;
use crate::numerics::math::exp;
use crate::numerics::product::{Into, Matrix, MatrixMut, serial_product};
use crate::numerics::reduce::{max, sum};
use crate::numerics::vectorized::vectorized;
use rayon::prelude::*;

/// Query rows whose weights exist at a time. Part of the numerics: gradients of keys and values are summed block by
/// block.
const BLOCK: usize = 64;

/// The sizes of one micro-batch's attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention {
    block_size: usize,
    n_head: usize,
    n_embd: usize,
    head_size: usize,
    /// 1 / sqrt(head_size)
    scale: f32,
}

/// Which of the three parts of a row of `qkv`.
#[derive(Clone, Copy)]
enum Part {
    Query = 0,
    Key = 1,
    Value = 2,
}

impl Attention {
    pub(super) fn new(model: &ModelConfig) -> Attention {
        Attention {
            block_size: model.block_size,
            n_head: model.n_head,
            n_embd: model.n_embd,
            head_size: model.head_size(),
            scale: scale(model.head_size()),
        }
    }

    /// `out [rows, n_embd]` of `qkv [rows, 3 * n_embd]`; `heads` is scratch of `out`'s size.
    pub(super) fn forward(&self, out: &mut [f32], qkv: &[f32], mask: Option<&Mask>, heads: &mut [f32]) {
        let (size, width) = (self.block_size, self.head_size);
        heads.par_chunks_mut(size * width).enumerate().for_each_init(
            || vec![0.0; BLOCK * size],
            |weights, (head, out)| {
                for start in (0..size).step_by(BLOCK) {
                    let end = size.min(start + BLOCK);
                    let weights = &mut weights[..(end - start) * end];
                    self.weights(weights, qkv, head, start, end);
                    if let Some(mask) = mask {
                        self.drop(weights, mask, head, start, end);
                    }
                    serial_product(
                        MatrixMut::new(&mut out[start * width..end * width], end - start, width),
                        Into::Replace,
                        Matrix::new(weights, end - start, end),
                        self.part(qkv, head, Part::Value, 0, end),
                    );
                }
            },
        );
        // From heads to rows.
        out.par_chunks_mut(ROWS * self.n_embd).enumerate().for_each(|(task, out)| {
            for (index, out) in out.chunks_mut(self.n_embd).enumerate() {
                let (batch, place) = self.place(task * ROWS + index);
                for (head, out) in out.chunks_mut(width).enumerate() {
                    let from = ((batch * self.n_head + head) * size + place) * width;
                    out.copy_from_slice(&heads[from..from + width]);
                }
            }
        });
    }

    /// Writes `dqkv`; `heads` is scratch of its size.
    pub(super) fn backward(
        &self,
        dqkv: &mut [f32],
        dout: &[f32],
        qkv: &[f32],
        mask: Option<&Mask>,
        heads: &mut [f32],
    ) {
        let (size, width) = (self.block_size, self.head_size);
        heads.par_chunks_mut(3 * size * width).enumerate().for_each_init(
            || Scratch::new(size),
            |scratch, (head, grads)| {
                self.backward_head(grads, dout, qkv, mask, head, scratch);
            },
        );
        dqkv.par_chunks_mut(ROWS * 3 * self.n_embd).enumerate().for_each(|(task, out)| {
            for (index, out) in out.chunks_mut(3 * self.n_embd).enumerate() {
                let (batch, place) = self.place(task * ROWS + index);
                for (slot, out) in out.chunks_mut(width).enumerate() {
                    let (part, head) = (slot / self.n_head, slot % self.n_head);
                    let from = (((batch * self.n_head + head) * 3 + part) * size + place) * width;
                    out.copy_from_slice(&heads[from..from + width]);
                }
            }
        });
    }

    fn backward_head(
        &self,
        grads: &mut [f32],
        dout: &[f32],
        qkv: &[f32],
        mask: Option<&Mask>,
        head: usize,
        scratch: &mut Scratch,
    ) {
        let (size, width) = (self.block_size, self.head_size);
        let (dquery, rest) = grads.split_at_mut(size * width);
        let (dkey, dvalue) = rest.split_at_mut(size * width);
        dkey.fill(0.0);
        dvalue.fill(0.0);
        for start in (0..size).step_by(BLOCK) {
            let end = size.min(start + BLOCK);
            let rows = end - start;
            let weights = &mut scratch.weights[..rows * end];
            let dropped = &mut scratch.dropped[..rows * end];
            let dweights = &mut scratch.dweights[..rows * end];
            self.weights(weights, qkv, head, start, end);
            dropped.copy_from_slice(weights);
            let dout = self.rows_of(dout, self.n_embd, head, 0, start, end);
            let value = self.part(qkv, head, Part::Value, 0, end);
            serial_product(MatrixMut::new(dweights, rows, end), Into::Replace, dout, value.transposed());
            if let Some(mask) = mask {
                self.drop(dropped, mask, head, start, end);
                self.drop(dweights, mask, head, start, end);
            }
            serial_product(
                MatrixMut::new(&mut dvalue[..end * width], end, width),
                Into::Add,
                Matrix::new(dropped, rows, end).transposed(),
                dout,
            );
            for (row, (dweights, weights)) in dweights.chunks_mut(end).zip(weights.chunks(end)).enumerate() {
                softmax_backward(dweights, weights, start + row + 1, self.scale);
            }
            let dscores = Matrix::new(dweights, rows, end);
            serial_product(
                MatrixMut::new(&mut dquery[start * width..end * width], rows, width),
                Into::Replace,
                dscores,
                self.part(qkv, head, Part::Key, 0, end),
            );
            serial_product(
                MatrixMut::new(&mut dkey[..end * width], end, width),
                Into::Add,
                dscores.transposed(),
                self.part(qkv, head, Part::Query, start, end),
            );
        }
    }

    /// The weights of query rows `start..end` over keys `0..end`; 0 after the row's own place.
    fn weights(&self, weights: &mut [f32], qkv: &[f32], head: usize, start: usize, end: usize) {
        serial_product(
            MatrixMut::new(weights, end - start, end),
            Into::Replace,
            self.part(qkv, head, Part::Query, start, end),
            self.part(qkv, head, Part::Key, 0, end).transposed(),
        );
        for (row, weights) in weights.chunks_mut(end).enumerate() {
            let (seen, later) = weights.split_at_mut(start + row + 1);
            softmax(seen, self.scale);
            later.fill(0.0);
        }
    }

    fn drop(&self, weights: &mut [f32], mask: &Mask, head: usize, start: usize, end: usize) {
        for (row, weights) in weights.chunks_mut(end).enumerate() {
            let place = start + row;
            mask.apply(&mut weights[..=place], head * self.block_size + place, self.block_size);
        }
    }

    fn part<'a>(&self, qkv: &'a [f32], head: usize, part: Part, start: usize, end: usize) -> Matrix<'a> {
        self.rows_of(qkv, 3 * self.n_embd, head, part as usize * self.n_embd, start, end)
    }

    /// Places `start..end` of one head of one sequence; `head` counts over the whole micro-batch.
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

    fn place(&self, row: usize) -> (usize, usize) {
        (row / self.block_size, row % self.block_size)
    }
}

/// The attention of one place of one sequence over `qkv [block_size, 3 * n_embd]` up to it: what the forward pass
/// computes there, to the bit.
pub(crate) fn attend(out: &mut [f32], model: &ModelConfig, qkv: &[f32], place: usize) {
    let attention = Attention::new(model);
    let mut weights = vec![0.0; place + 1];
    for (head, out) in out.chunks_mut(attention.head_size).enumerate() {
        let part = |part, start| attention.part(qkv, head, part, start, place + 1);
        let scores = MatrixMut::new(&mut weights, 1, place + 1);
        serial_product(scores, Into::Replace, part(Part::Query, place), part(Part::Key, 0).transposed());
        softmax(&mut weights, attention.scale);
        let weights = Matrix::new(&weights, 1, place + 1);
        serial_product(
            MatrixMut::new(out, 1, attention.head_size),
            Into::Replace,
            weights,
            part(Part::Value, 0),
        );
    }
}

/// What scores are multiplied by.
fn scale(head_size: usize) -> f32 {
    1.0 / (head_size as f32).sqrt()
}

/// A thread's buffers of the backward pass.
struct Scratch {
    weights: Vec<f32>,
    dropped: Vec<f32>,
    dweights: Vec<f32>,
}

impl Scratch {
    fn new(block_size: usize) -> Scratch {
        let buffer = || vec![0.0; BLOCK * block_size];
        Scratch { weights: buffer(), dropped: buffer(), dweights: buffer() }
    }
}

vectorized! {
    /// Replaces scores by softmax(scale · scores).
    fn softmax(scores: &mut [f32], scale: f32) {
        for score in scores.iter_mut() {
            *score *= scale;
        }
        let largest = max(scores);
        for score in scores.iter_mut() {
            *score = exp(*score - largest);
        }
        let total = 1.0 / sum(scores.len(), |index| scores[index]);
        for score in scores.iter_mut() {
            *score *= total;
        }
    }
}

vectorized! {
    /// Replaces the gradient of a row's first `seen` weights by that of their scores; the rest is 0.
    fn softmax_backward(dweights: &mut [f32], weights: &[f32], seen: usize, scale: f32) {
        let (dweights, later) = dweights.split_at_mut(seen);
        let weights = &weights[..seen];
        let dot = sum(seen, |index| dweights[index] * weights[index]);
        for (d, weight) in dweights.iter_mut().zip(weights) {
            *d = weight * (*d - dot) * scale;
        }
        later.fill(0.0);
    }
}
