//! The backward pass, by heads.

use super::{Attention, BLOCK, Qkv, Queries};
use crate::ops::dropout::Mask;
use crate::ops::rectangle::Rectangle;
use crate::ops::rows::with_buffer;
use crate::ops::softmax::RowSoftmax;
use keepstep_numerics::math::exp;
use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut, Triangle, serial_matmul, serial_matmul_of};
use keepstep_numerics::reduce::sum;
use keepstep_numerics::vectorized;

/// The columns of `qkv` of one head in one sequence: queries, keys and values. `head` counts over the whole
/// micro-batch.
pub(crate) struct HeadColumns<'a> {
    head: usize,
    parts: [Rectangle<'a, f32>; 3],
}

impl Attention {
    /// Divides `qkv` of whole sequences among their heads.
    pub(crate) fn heads<'a>(&self, qkv: &'a mut [f32]) -> Vec<HeadColumns<'a>> {
        qkv.chunks_mut(3 * self.n_embd * self.block_size)
            .flat_map(|sequence| {
                let mut queries =
                    Rectangle::divide(sequence, 3 * self.n_embd, self.block_size, self.head_size);
                let mut keys = queries.split_off(self.n_head);
                let values = keys.split_off(self.n_head);
                queries.into_iter().zip(keys).zip(values)
            })
            .enumerate()
            .map(|(head, ((query, key), value))| HeadColumns { head, parts: [query, key, value] })
            .collect()
    }

    /// Replaces the queries, keys and values of one head by their gradients. `attended` is the output of the forward
    /// pass, and `dout` is its gradient.
    pub(crate) fn backward_head(
        &self,
        columns: HeadColumns<'_>,
        attended: &[f32],
        dout: &[f32],
        softmax: &[RowSoftmax],
        mask: Option<&Mask>,
    ) {
        let HeadColumns { head, mut parts } = columns;
        let (size, width) = (self.block_size, self.head_size);
        // Copies of the head's queries, keys and values, which its columns lose; two blocks of weights; and one sum per row.
        with_buffer(3 * size * width + BLOCK * (2 * BLOCK + 1), |buffer| {
            let (own, rest) = buffer.split_at_mut(3 * size * width);
            let (weights, rest) = rest.split_at_mut(BLOCK * BLOCK);
            let (dweights, dots) = rest.split_at_mut(BLOCK * BLOCK);
            for (part, own) in parts.iter_mut().zip(own.chunks_mut(size * width)) {
                for (place, own) in own.chunks_mut(width).enumerate() {
                    own.copy_from_slice(part.row_mut(place));
                }
            }
            let [dquery, dkey, dvalue] = &mut parts;
            let own = |part: Qkv, start: usize, end: usize| {
                let from = (part as usize * size + start) * width;
                Matrix::new(&own[from..], end - start, width)
            };
            for start in (0..size).step_by(BLOCK) {
                let end = size.min(start + BLOCK);
                let rows = end - start;
                let dots = &mut dots[..rows];
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
                    let is_diagonal = first == start;
                    let [scores, transposed] =
                        [Triangle::Result, Triangle::UpperLeft].map(|one| one.on_diagonal(is_diagonal));
                    serial_matmul_of(
                        scores,
                        MatrixMut::new(weights, rows, keys),
                        Accumulate::Replace,
                        own(Qkv::Query, start, end),
                        own(Qkv::Key, first, last).transposed(),
                    );
                    serial_matmul_of(
                        scores,
                        MatrixMut::new(dweights, rows, keys),
                        Accumulate::Replace,
                        dout_block,
                        own(Qkv::Value, first, last).transposed(),
                    );
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
                    serial_matmul_of(
                        transposed,
                        dvalue.rows_mut(first..last),
                        into,
                        weights.transposed(),
                        dout_block,
                    );
                    serial_matmul_of(
                        transposed,
                        dkey.rows_mut(first..last),
                        into,
                        dscores.transposed(),
                        own(Qkv::Query, start, end),
                    );
                    serial_matmul(
                        dquery.rows_mut(start..end),
                        if first == 0 { Accumulate::Replace } else { Accumulate::Add },
                        dscores,
                        own(Qkv::Key, first, last),
                    );
                }
            }
        });
    }

    fn row_of<'a>(&self, values: &'a [f32], head: usize, place: usize) -> &'a [f32] {
        let (batch, head) = (head / self.n_head, head % self.n_head);
        let from = (batch * self.block_size + place) * self.n_embd + head * self.head_size;
        &values[from..from + self.head_size]
    }
}

vectorized! {
    fn dot_of(one: &[f32], other: &[f32]) -> f32 {
        sum([one, other], |[one, other]| one * other)
    }
}

vectorized! {
    /// Replaces scores by weights, and the gradients of weights by those of scores. `dots` holds each row's sum of
    /// weights times their gradients.
    fn softmax_backward(
        weights: &mut [f32], dweights: &mut [f32], keys: usize, is_diagonal: bool, scale: f32, softmax: &[RowSoftmax],
        dots: &[f32],
    ) {
        for (row, softmax) in softmax.iter().enumerate() {
            let seen = if is_diagonal { row + 1 } else { keys };
            let weights = &mut weights[row * keys..(row + 1) * keys];
            let dweights = &mut dweights[row * keys..(row + 1) * keys];
            // All keys, so that no branch depends on how many the row sees.
            for key in 0..keys {
                let weight = exp(weights[key] * scale - softmax.largest) * softmax.total;
                let d = weight * (dweights[key] - dots[row]) * scale;
                (weights[key], dweights[key]) = if key < seen { (weight, d) } else { (0.0, 0.0) };
            }
        }
    }
}

vectorized! {
    /// Does the same as `softmax_backward`, for weights that were multiplied by `factors` after the softmax.
    fn softmax_backward_dropped(
        weights: &mut [f32], dweights: &mut [f32], factors: &[f32], keys: usize, is_diagonal: bool, scale: f32,
        softmax: &[RowSoftmax], dots: &[f32],
    ) {
        for (row, softmax) in softmax.iter().enumerate() {
            let seen = if is_diagonal { row + 1 } else { keys };
            let place = row * keys..(row + 1) * keys;
            let (weights, dweights) = (&mut weights[place.clone()], &mut dweights[place.clone()]);
            let factors = &factors[place];
            for key in 0..keys {
                let kept = exp(weights[key] * scale - softmax.largest) * softmax.total;
                let d = kept * (dweights[key] * factors[key] - dots[row]) * scale;
                (weights[key], dweights[key]) = if key < seen { (kept * factors[key], d) } else { (0.0, 0.0) };
            }
        }
    }
}
