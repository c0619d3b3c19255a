//! The softmax of a row, computed one block at a time.

use keepstep_numerics::math::exp;
use keepstep_numerics::reduce::{max, sum};
use keepstep_numerics::vectorized;

/// The running softmax of a row over the keys that it has seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowSoftmax {
    /// The largest scaled score.
    pub(crate) largest: f32,
    /// The sum of exp(score - largest). In a finished row, its reciprocal.
    pub(crate) total: f32,
}

impl RowSoftmax {
    pub(crate) const EMPTY: RowSoftmax = RowSoftmax { largest: f32::NEG_INFINITY, total: 0.0 };
}

vectorized! {
    /// Replaces the scores of a block of `keys` columns by exp(scale · score - the row's running maximum), and rescales
    /// the earlier sums to the new maximum. On the diagonal, row r sees r + 1 keys.
    pub(crate) fn online(
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
    pub(crate) fn finish(running: &mut [RowSoftmax], sums: &mut [f32]) {
        let width = sums.len() / running.len();
        for (running, sums) in running.iter_mut().zip(sums.chunks_exact_mut(width)) {
            running.total = 1.0 / running.total;
            for sum in sums {
                *sum = sum.mul_add(running.total, 0.0);
            }
        }
    }
}
