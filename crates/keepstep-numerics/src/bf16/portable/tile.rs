//! One tile of the result: fused multiply-adds of float32 numbers that hold bfloat16 values.

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::{LhsLayout, SLICE, pack};
use crate::bf16::definition::multiply_add;
use crate::matmul::Matrix;
use crate::vectorized;
#[cfg(target_arch = "x86_64")]
use crate::vectorized::is_fast;

/// Rows of a tile: with AVX2, twelve registers of sums.
pub(super) const ROWS: usize = 6;
/// Columns of a tile.
pub(super) const COLS: usize = 16;

/// A tile's sums.
pub(super) type Tile = [[f32; COLS]; ROWS];

/// A packed panel: `ROWS` rows, or `COLS` columns, of one slice. What lies beyond the matrix is zero.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) factors: &'a [f32],
    /// See [`pack::least_magnitude`].
    pub(super) least: u32,
}

/// Packs `rows` rows from `row` on; gives their [`least magnitude`](pack::least_magnitude).
pub(super) fn pack_lhs(
    panel: &mut [f32],
    layout: LhsLayout,
    lhs: &Matrix<'_>,
    row: usize,
    rows: usize,
    len: usize,
) -> u32 {
    let src = &lhs.data[row * lhs.row_stride..];
    match layout {
        LhsLayout::Columns => pack::across(panel, src, lhs.col_stride, rows, ROWS, len),
        LhsLayout::Rows => pack::along(panel, src, lhs.row_stride, rows, ROWS, SLICE, len),
        LhsLayout::Single if lhs.col_stride == 1 => {
            pack::along(panel, src, lhs.row_stride, 1, 1, SLICE, len);
        }
        LhsLayout::Single => pack::across(panel, src, lhs.col_stride, 1, 1, len),
    }
    match layout {
        LhsLayout::Rows if len < SLICE => panel
            .chunks_exact(SLICE)
            .take(rows)
            .map(|row| pack::least_magnitude(&row[..len]))
            .fold(u32::MAX, u32::min),
        LhsLayout::Rows | LhsLayout::Columns => pack::least_magnitude(&panel[..len * ROWS]),
        LhsLayout::Single => pack::least_magnitude(&panel[..len]),
    }
}

/// Packs `cols` columns from `col` on, likewise.
pub(super) fn pack_rhs(panel: &mut [f32], rhs: &Matrix<'_>, col: usize, cols: usize, len: usize) -> u32 {
    let src = &rhs.data[col * rhs.col_stride..];
    if rhs.col_stride == 1 {
        pack::across(panel, src, rhs.row_stride, cols, COLS, len);
    } else {
        pack::transposed(panel, src, rhs.col_stride, cols, COLS, len);
    }
    pack::least_magnitude(&panel[..len * COLS])
}

/// The sums of `pairs` pairs of the slice.
pub(super) fn sums(tile: &mut Tile, layout: LhsLayout, pairs: usize, lhs: Panel<'_>, rhs: Panel<'_>) {
    let (left, right) = (lhs.factors, rhs.factors);
    if nothing_is_tiny(lhs.least, rhs.least) {
        #[cfg(target_arch = "x86_64")]
        if is_fast() {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe {
                match layout {
                    LhsLayout::Rows => avx2::sums::<ROWS, SLICE, 1>(tile, pairs, left, right),
                    LhsLayout::Columns => avx2::sums::<ROWS, 1, ROWS>(tile, pairs, left, right),
                    LhsLayout::Single => avx2::sums::<1, 0, 1>(tile, pairs, left, right),
                }
            };
        }
        let fused = |sum: f32, left: f32, right: f32| left.mul_add(right, sum);
        return match layout {
            LhsLayout::Rows => sums_by::<ROWS, SLICE, 1>(tile, pairs, left, right, fused),
            LhsLayout::Columns => sums_by::<ROWS, 1, ROWS>(tile, pairs, left, right, fused),
            LhsLayout::Single => sums_by::<1, 0, 1>(tile, pairs, left, right, fused),
        };
    }
    match layout {
        LhsLayout::Rows => rows_with_tiny(tile, pairs, left, right),
        LhsLayout::Columns => columns_with_tiny(tile, pairs, left, right),
        LhsLayout::Single => single_with_tiny(tile, pairs, left, right),
    }
}

/// Whether no sum of these panels' products can be tiny, whatever is added up in which order.
///
/// A bfloat16 number of the exponent e is a multiple of 2^(e - 7), so all products are multiples of one power of two, and
/// so is every sum, before and after rounding: one that is not zero is at least that power.
fn nothing_is_tiny(left: u32, right: u32) -> bool {
    let exponent = |least: u32| least.wrapping_add(1) >> 23;
    // Of biased exponents: (left - 127 - 7) + (right - 127 - 7) >= -126.
    left == u32::MAX || right == u32::MAX || exponent(left) + exponent(right) >= 142
}

/// The sums of one tile. The left panel's row `row` has its number `k` at `row * LHS_ROW + k * LHS_K`.
#[inline(always)]
fn sums_by<const ROWS: usize, const LHS_ROW: usize, const LHS_K: usize>(
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

vectorized! {
    fn rows_with_tiny(tile: &mut Tile, pairs: usize, lhs: &[f32], rhs: &[f32]) {
        sums_by::<ROWS, SLICE, 1>(tile, pairs, lhs, rhs, multiply_add);
    }
}

vectorized! {
    fn columns_with_tiny(tile: &mut Tile, pairs: usize, lhs: &[f32], rhs: &[f32]) {
        sums_by::<ROWS, 1, ROWS>(tile, pairs, lhs, rhs, multiply_add);
    }
}

vectorized! {
    fn single_with_tiny(tile: &mut Tile, pairs: usize, lhs: &[f32], rhs: &[f32]) {
        sums_by::<1, 0, 1>(tile, pairs, lhs, rhs, multiply_add);
    }
}
