//! A tile in plain loops, with any multiply-add.

use super::panel::{COLS, Tile};

/// Computes the sums of a tile in plain loops. The left panel's row `row` has its number `k` at
/// `row * LHS_ROW + k * LHS_K`.
#[inline(always)]
pub(super) fn sums_by<const ROWS: usize, const LHS_ROW: usize, const LHS_K: usize>(
    tile: &mut Tile,
    pairs: usize,
    lhs: &[f32],
    rhs: &[f32],
    multiply_add: impl Fn(f32, f32, f32) -> f32,
) {
    let mut sums = [[0.0_f32; COLS]; ROWS];
    let lhs = &lhs[..(ROWS - 1) * LHS_ROW + (2 * pairs - 1) * LHS_K + 1];
    for (pair, right) in rhs.chunks_exact(2 * COLS).take(pairs).enumerate() {
        for half in [1, 0] {
            let mut columns = [0.0_f32; COLS];
            columns.copy_from_slice(&right[half * COLS..(half + 1) * COLS]);
            for row in 0..ROWS {
                let left = lhs[row * LHS_ROW + (2 * pair + half) * LHS_K];
                for col in 0..COLS {
                    sums[row][col] = multiply_add(sums[row][col], left, columns[col]);
                }
            }
        }
    }
    for (tile, sums) in tile.iter_mut().zip(&sums) {
        tile.copy_from_slice(sums);
    }
}
