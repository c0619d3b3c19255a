//! The softmax of a row, computed one block at a time.

use keepstep_numerics::math::exp;
use keepstep_numerics::reduce::{max, sum};
use keepstep_numerics::vectorized;

/// Rows that are computed together.
const TOGETHER: usize = 8;

/// The running softmax of a row over the keys that it has seen.
#[derive(Debug, Clone, Copy)]
pub struct RowSoftmax {
    /// The largest scaled score.
    pub(crate) largest: f32,
    /// The sum of exp(score - largest). In a finished row, its reciprocal.
    pub(crate) total: f32,
}

impl RowSoftmax {
    /// A row that has seen no key.
    pub const EMPTY: RowSoftmax = RowSoftmax { largest: f32::NEG_INFINITY, total: 0.0 };
}

vectorized! {
    /// Replaces the scores of a block of `keys` columns by exp(scale · score - the row's running maximum), and rescales
    /// the earlier sums to the new maximum. On the diagonal, row r sees r + 1 keys.
    pub fn online(
        scores: &mut [f32], keys: usize, is_diagonal: bool, scale: f32, running: &mut [RowSoftmax], sums: &mut [f32],
    ) {
        let (rows, width) = (running.len(), sums.len() / running.len());
        // Each step for some rows before the next one: a processor computes several rows at a time then.
        for first in (0..rows).step_by(TOGETHER) {
            let group = first..rows.min(first + TOGETHER);
            let mut before = [0.0; TOGETHER];
            for row in group.clone() {
                let seen = if is_diagonal { row + 1 } else { keys };
                let here = largest_score(&mut scores[row * keys..(row + 1) * keys], seen, scale);
                let largest = running[row].largest;
                before[row - first] = largest;
                running[row].largest = if here > largest { here } else { largest };
            }
            for row in group.clone() {
                let seen = if is_diagonal { row + 1 } else { keys };
                let largest = running[row].largest;
                for (key, score) in scores[row * keys..(row + 1) * keys].iter_mut().enumerate() {
                    let value = exp(*score - largest);
                    *score = if key < seen { value } else { 0.0 };
                }
            }
            for row in group {
                // Adding 0 changes no sum.
                let total = sum([&scores[row * keys..(row + 1) * keys]], |[value]| value);
                let before = before[row - first];
                if before == f32::NEG_INFINITY {
                    running[row].total = total;
                } else {
                    let factor = exp(before - running[row].largest);
                    running[row].total = running[row].total.mul_add(factor, total);
                    for sum in &mut sums[row * width..(row + 1) * width] {
                        *sum *= factor;
                    }
                }
            }
        }
    }
}

/// Scales a row's scores and returns the largest of those that it sees.
#[inline(always)]
fn largest_score(scores: &mut [f32], seen: usize, scale: f32) -> f32 {
    for (key, score) in scores.iter_mut().enumerate() {
        *score = if key < seen { *score * scale } else { f32::NEG_INFINITY };
    }
    max(scores)
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
