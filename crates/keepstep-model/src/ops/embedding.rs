//! Token and position embeddings. Their sum is the input of the first block.

use crate::ops::add::add_to;
use crate::ops::dropout::Mask;
use crate::ops::rows::{RowsMut, for_each_part};
use rayon::prelude::*;

/// The inputs of a micro-batch: `[batch_size, block_size]` tokens, each with its position in the context.
pub(crate) struct Inputs<'a> {
    tokens: &'a [u32],
    block_size: usize,
}

impl<'a> Inputs<'a> {
    /// Wraps `[batch_size, block_size + 1]` tokens.
    pub(crate) fn new(tokens: &'a [u32], block_size: usize) -> Inputs<'a> {
        Inputs { tokens, block_size }
    }

    pub(crate) fn rows(&self) -> usize {
        self.tokens.len() / (self.block_size + 1) * self.block_size
    }

    fn token(&self, row: usize) -> usize {
        self.tokens[row / self.block_size * (self.block_size + 1) + row % self.block_size] as usize
    }

    pub(crate) fn target(&self, row: usize) -> usize {
        self.tokens[row / self.block_size * (self.block_size + 1) + row % self.block_size + 1] as usize
    }

    /// Returns the rows of each token in ascending order: those of `token` are `list[starts[token]..starts[token +
    /// 1]]`.
    fn rows_by_token(&self, vocab_size: usize) -> (Vec<usize>, Vec<usize>) {
        let mut starts = vec![0; vocab_size + 1];
        for row in 0..self.rows() {
            starts[self.token(row) + 1] += 1;
        }
        for token in 0..vocab_size {
            starts[token + 1] += starts[token];
        }
        let mut next = starts.clone();
        let mut list = vec![0; self.rows()];
        for row in 0..self.rows() {
            let token = self.token(row);
            list[next[token]] = row;
            next[token] += 1;
        }
        (starts, list)
    }
}

/// Computes `x[row] = mask(wte[token] + wpe[position])` for rows from `start` on.
pub(crate) fn forward(
    x: &mut [f32],
    start: usize,
    inputs: &Inputs<'_>,
    wte: &[f32],
    wpe: &[f32],
    mask: Option<&Mask>,
) {
    let cols = wpe.len() / inputs.block_size;
    for (index, x) in x.chunks_mut(cols).enumerate() {
        let row = start + index;
        let (token, place) = (inputs.token(row), row % inputs.block_size);
        let wte = &wte[token * cols..(token + 1) * cols];
        let wpe = &wpe[place * cols..(place + 1) * cols];
        for ((x, token), place) in x.iter_mut().zip(wte).zip(wpe) {
            *x = token + place;
        }
        if let Some(mask) = mask {
            mask.apply(x, row, cols);
        }
    }
}

/// Adds the gradient of the token embedding to `dwte`, and writes that of the position embedding to `dwpe`. Each row of
/// either is summed in the order of the micro-batch's rows.
pub(crate) fn backward(
    dx: &mut [f32],
    inputs: &Inputs<'_>,
    dwte: &mut [f32],
    dwpe: &mut [f32],
    mask: Option<&Mask>,
) {
    let cols = dwpe.len() / inputs.block_size;
    if let Some(mask) = mask {
        for_each_part(inputs.rows(), RowsMut::new(dx, cols), |range, mut dx| {
            dx.chunks_mut(cols).zip(range).for_each(|(dx, row)| mask.apply(dx, row, cols));
        });
    }
    let row_of = |row: usize| &dx[row * cols..(row + 1) * cols];
    dwpe.par_chunks_mut(cols).with_min_len(16).enumerate().for_each(|(place, dwpe)| {
        dwpe.fill(0.0);
        for row in (place..inputs.rows()).step_by(inputs.block_size) {
            add_to(dwpe, row_of(row));
        }
    });
    let (starts, list) = inputs.rows_by_token(dwte.len() / cols);
    dwte.par_chunks_mut(cols).with_min_len(16).enumerate().for_each(|(token, dwte)| {
        for &row in &list[starts[token]..starts[token + 1]] {
            add_to(dwte, row_of(row));
        }
    });
}
