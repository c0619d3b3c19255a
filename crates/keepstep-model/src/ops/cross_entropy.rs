//! The tied head and the cross-entropy, fused. Logits exist only for a block of rows by a block of the vocabulary.
//!
//! Each row keeps a running maximum and sum over the blocks of the vocabulary. The backward half computes the logits
//! again where there is more than one block.

use crate::ops::embedding::Inputs;
use crate::ops::rows::{self, RowsMut, for_each_part};
use keepstep_numerics::math::{exp, ln};
use keepstep_numerics::matmul::MatmulKind;
use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut};
use keepstep_numerics::reduce::{max, sum};
use keepstep_numerics::vectorized;

/// The number of rows whose logits exist at a time: one slice of the matmuls' inner dimension. With whole slices, the
/// token embedding's gradient has the bits of one matmul over all rows.
pub(crate) const ROWS: usize = 512;

/// The number of vocabulary entries whose logits exist at a time. Part of the numerics: rows are summed block by block.
pub(crate) const VOCABULARY: usize = 4096;

/// The buffers of one block of rows.
pub(crate) struct Buffers {
    logits: Vec<f32>,
    rows: Vec<RowLoss>,
}

impl Buffers {
    pub(crate) fn new(vocab_size: usize, rows: usize) -> Buffers {
        let rows = rows.min(ROWS);
        Buffers { logits: vec![0.0; rows * vocab_size.min(VOCABULARY)], rows: vec![RowLoss::EMPTY; rows] }
    }

    pub(crate) fn len_bytes(vocab_size: usize, rows: usize) -> usize {
        let row = vocab_size.min(VOCABULARY) * size_of::<f32>() + size_of::<RowLoss>();
        rows.min(ROWS) * row
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        size_of_val(&self.logits[..]) + size_of_val(&self.rows[..])
    }
}

/// The running softmax of a row over the blocks of the vocabulary that it has seen.
#[derive(Debug, Clone, Copy)]
struct RowLoss {
    largest: f32,
    total: f32,
    /// The target's logit.
    correct: f32,
}

impl RowLoss {
    const EMPTY: RowLoss = RowLoss { largest: f32::NEG_INFINITY, total: 0.0, correct: f32::NAN };

    /// -ln softmax(logits)[target]
    fn loss(&self) -> f64 {
        ln(f64::from(self.total)) + (f64::from(self.largest) - f64::from(self.correct))
    }
}

/// The outputs of the backward half.
pub(crate) struct Gradients<'a> {
    /// The gradient of the head's input, `[rows, n_embd]`.
    pub(crate) dx: &'a mut [f32],
    /// The gradient of the token embedding, `[vocab_size, n_embd]`. It is overwritten.
    pub(crate) dwte: &'a mut [f32],
}

/// Computes the sum of the losses of all rows. With `gradients`, it also computes the gradients of the mean loss.
pub(crate) fn cross_entropy(
    matmul_kind: MatmulKind,
    x: &[f32],
    wte: &[f32],
    inputs: &Inputs<'_>,
    buffers: &mut Buffers,
    mut gradients: Option<Gradients<'_>>,
) -> f64 {
    let num_rows = inputs.rows();
    let cols = x.len() / num_rows;
    let vocab_size = wte.len() / cols;
    let share = 1.0 / num_rows as f32;
    let mut total = 0.0;
    for start in (0..num_rows).step_by(ROWS) {
        let count = ROWS.min(num_rows - start);
        let head =
            Head { x: &x[start * cols..(start + count) * cols], wte, cols, start, inputs, matmul_kind };
        let rows = &mut buffers.rows[..count];
        rows.fill(RowLoss::EMPTY);
        for first in (0..vocab_size).step_by(VOCABULARY) {
            head.take_in(first, &mut buffers.logits, rows);
        }
        total += rows.iter().map(RowLoss::loss).sum::<f64>();
        let Some(Gradients { dx, dwte }) = &mut gradients else { continue };
        let dx = &mut dx[start * cols..(start + count) * cols];
        for first in (0..vocab_size).step_by(VOCABULARY) {
            let logits = head.gradients(first, &mut buffers.logits, rows, share, dx);
            let last = vocab_size.min(first + VOCABULARY);
            matmul_kind.matmul(
                MatrixMut::new(&mut dwte[first * cols..last * cols], last - first, cols),
                if start == 0 { Accumulate::Replace } else { Accumulate::Add },
                logits.transposed(),
                Matrix::new(head.x, count, cols),
            );
        }
    }
    total
}

/// A block of rows at the head.
struct Head<'a> {
    x: &'a [f32],
    wte: &'a [f32],
    cols: usize,
    /// The index of the first of these rows in the micro-batch.
    start: usize,
    inputs: &'a Inputs<'a>,
    matmul_kind: MatmulKind,
}

impl Head<'_> {
    fn count(&self) -> usize {
        self.x.len() / self.cols
    }

    /// Returns the rows of the token embedding in the block of the vocabulary that begins at entry `first`.
    fn block(&self, first: usize) -> Matrix<'_> {
        let vocab_size = self.wte.len() / self.cols;
        let last = vocab_size.min(first + VOCABULARY);
        Matrix::new(&self.wte[first * self.cols..last * self.cols], last - first, self.cols)
    }

    fn is_one_block(&self) -> bool {
        self.wte.len() / self.cols <= VOCABULARY
    }

    /// Computes a block's logits and adds them to the rows' running softmax.
    fn take_in(&self, first: usize, logits: &mut [f32], rows: &mut [RowLoss]) {
        let block = self.block(first);
        let width = block.rows();
        let parts = (RowsMut::new(logits, width), RowsMut::new(rows, 1));
        for_each_part(self.count(), parts, |range, (mut logits, mut rows)| {
            self.logits(&mut logits, block, &range);
            for ((logits, row), index) in logits.chunks_exact(width).zip(rows.iter_mut()).zip(range) {
                let target = self.inputs.target(self.start + index);
                if let Some(&correct) = target.checked_sub(first).and_then(|place| logits.get(place)) {
                    row.correct = correct;
                }
                take_in(row, logits);
            }
        });
    }

    fn logits(&self, logits: &mut [f32], block: Matrix<'_>, range: &std::ops::Range<usize>) {
        let x = Matrix::new(&self.x[range.start * self.cols..], range.len(), self.cols);
        let out = MatrixMut::new(logits, range.len(), block.rows());
        self.matmul_kind.serial_matmul(out, Accumulate::Replace, x, block.transposed());
    }

    /// Replaces a block's logits by their gradients, and adds the block's share of the input's gradient to `dx`.
    fn gradients<'a>(
        &self,
        first: usize,
        logits: &'a mut [f32],
        rows: &[RowLoss],
        share: f32,
        dx: &mut [f32],
    ) -> Matrix<'a> {
        let block = self.block(first);
        let width = block.rows();
        let parts = (RowsMut::new(logits, width), RowsMut::new(dx, self.cols));
        for_each_part(self.count(), parts, |range, (mut logits, mut dx)| {
            if !self.is_one_block() {
                self.logits(&mut logits, block, &range);
            }
            for (logits, index) in logits.chunks_exact_mut(width).zip(range.clone()) {
                to_gradients(logits, rows[index].largest, share / rows[index].total);
                let target = self.inputs.target(self.start + index);
                if let Some(logit) = target.checked_sub(first).and_then(|place| logits.get_mut(place)) {
                    *logit -= share;
                }
            }
            self.matmul_kind.serial_matmul(
                MatrixMut::new(&mut dx, range.len(), self.cols),
                if first == 0 { Accumulate::Replace } else { Accumulate::Add },
                Matrix::new(&logits, range.len(), width),
                block,
            );
        });
        Matrix::new(&logits[..self.count() * width], self.count(), width)
    }
}

vectorized! {
    fn take_in(row: &mut RowLoss, logits: &[f32]) {
        let here = max(logits);
        let largest = if here > row.largest { here } else { row.largest };
        let total = sum([logits], |[logit]| exp(logit - largest));
        if row.largest == f32::NEG_INFINITY {
            row.total = total;
        } else {
            row.total = row.total.mul_add(exp(row.largest - largest), total);
        }
        row.largest = largest;
    }
}

vectorized! {
    fn to_gradients(logits: &mut [f32], largest: f32, factor: f32) {
        for logit in logits.iter_mut() {
            *logit = exp(*logit - largest) * factor;
        }
    }
}

/// A task's rows begin at a multiple of `rows::BLOCK`, and so does each block of rows here.
const _: () = assert!(ROWS.is_multiple_of(rows::BLOCK));
