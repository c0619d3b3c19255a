//! The tied head and the cross-entropy, fused: logits exist for a block of rows at a time, never for all.

use super::embedding::Inputs;
use crate::numerics::math::{exp, ln};
use crate::numerics::product::{Into, Matrix, MatrixMut, product};
use crate::numerics::reduce::{max, sum};
use crate::numerics::vectorized::vectorized;
use rayon::prelude::*;

/// Rows whose logits exist at a time. Part of the numerics: the token embedding's gradient is summed block by block.
pub(super) const BLOCK: usize = 256;

/// What the backward half writes.
pub(super) struct Gradients<'a> {
    /// Of the head's input, `[rows, n_embd]`.
    pub(super) dx: &'a mut [f32],
    /// Of the token embedding, `[vocab_size, n_embd]`, replaced.
    pub(super) dwte: &'a mut [f32],
}

/// The sum of the losses of all rows; with `gradients`, those of the mean loss.
pub(super) fn cross_entropy(
    x: &[f32],
    wte: &[f32],
    inputs: &Inputs<'_>,
    logits: &mut [f32],
    mut gradients: Option<Gradients<'_>>,
) -> f64 {
    let rows = inputs.rows();
    let cols = x.len() / rows;
    let vocab_size = wte.len() / cols;
    let head = Matrix::new(wte, vocab_size, cols);
    let share = gradients.is_some().then(|| 1.0 / rows as f32);
    let mut total = 0.0;
    for start in (0..rows).step_by(BLOCK) {
        let count = BLOCK.min(rows - start);
        let x = Matrix::new(&x[start * cols..(start + count) * cols], count, cols);
        let logits = &mut logits[..count * vocab_size];
        product(MatrixMut::new(logits, count, vocab_size), Into::Replace, x, head.transposed());
        let losses: Vec<f64> = logits
            .par_chunks_mut(vocab_size)
            .enumerate()
            .map(|(index, logits)| row_loss(logits, inputs.target(start + index), share))
            .collect();
        total += losses.iter().sum::<f64>();
        if let Some(Gradients { dx, dwte }) = &mut gradients {
            let dlogits = Matrix::new(logits, count, vocab_size);
            let dx = &mut dx[start * cols..(start + count) * cols];
            product(MatrixMut::new(dx, count, cols), Into::Replace, dlogits, head);
            let into = if start == 0 { Into::Replace } else { Into::Add };
            product(MatrixMut::new(dwte, vocab_size, cols), into, dlogits.transposed(), x);
        }
    }
    total
}

vectorized! {
    /// -ln softmax(logits)[target]; with `share`, the logits are replaced by its gradient times that.
    fn row_loss(logits: &mut [f32], target: usize, share: Option<f32>) -> f64 {
        let largest = max(logits);
        let correct = logits[target];
        for logit in logits.iter_mut() {
            *logit = exp(*logit - largest);
        }
        let total = sum(logits.len(), |index| logits[index]);
        if let Some(share) = share {
            let factor = share / total;
            for logit in logits.iter_mut() {
                *logit *= factor;
            }
            logits[target] -= share;
        }
        ln(f64::from(total)) + (f64::from(largest) - f64::from(correct))
    }
}
