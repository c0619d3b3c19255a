//! Copies of a product's sides in the order in which the kernel reads them.

use super::{Matrix, TILE_COLS, TILE_ROWS};
use std::arch::x86_64::{
    __m256, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
    _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};

/// Panels of the left side that are packed side by side.
const GROUP: usize = 8;

/// Columns `col..col + cols` in panels of 16: a panel has 16 numbers for each step of the inner dimension, zeros where
/// no column is left.
///
/// # Safety
/// There is room for whole panels, and the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn pack_right(out: *mut f32, rhs: &Matrix<'_>, col: usize, cols: usize) {
    let inner = rhs.rows;
    let whole = cols / TILE_COLS * TILE_COLS;
    let data = &rhs.data[col * rhs.col_stride..];
    // SAFETY: reads stay within the matrix, writes within the room.
    unsafe {
        if rhs.col_stride == 1 {
            for k in 0..inner {
                let from = data.as_ptr().add(k * rhs.row_stride);
                for panel in (0..whole).step_by(TILE_COLS) {
                    let out = out.add(panel * inner + k * TILE_COLS);
                    _mm256_storeu_ps(out, _mm256_loadu_ps(from.add(panel)));
                    _mm256_storeu_ps(out.add(8), _mm256_loadu_ps(from.add(panel + 8)));
                }
            }
        } else {
            for panel in (0..whole).step_by(TILE_COLS) {
                for half in [0, 8] {
                    let from = data.as_ptr().add((panel + half) * rhs.col_stride);
                    let out = out.add(panel * inner + half);
                    for k in (0..inner / 8 * 8).step_by(8) {
                        let mut rows = [_mm256_setzero_ps(); 8];
                        for (row, values) in rows.iter_mut().enumerate() {
                            *values = _mm256_loadu_ps(from.add(row * rhs.col_stride + k));
                        }
                        for (row, values) in transposed(rows).into_iter().enumerate() {
                            _mm256_storeu_ps(out.add((k + row) * TILE_COLS), values);
                        }
                    }
                    for k in inner / 8 * 8..inner {
                        for row in 0..8 {
                            *out.add(k * TILE_COLS + row) = *from.add(row * rhs.col_stride + k);
                        }
                    }
                }
            }
        }
        if whole < cols {
            let out = out.add(whole * inner);
            for k in 0..inner {
                for lane in 0..TILE_COLS {
                    let value = if whole + lane < cols {
                        data[(whole + lane) * rhs.col_stride + k * rhs.row_stride]
                    } else {
                        0.0
                    };
                    *out.add(k * TILE_COLS + lane) = value;
                }
            }
        }
    }
}

/// Rows `row..row + rows` in panels of 6: a panel has 6 numbers for each step of the inner dimension. The places of rows
/// that the last panel lacks are not written.
///
/// # Safety
/// There is room for whole panels, and the rows lie one apart.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn pack_left(out: *mut f32, lhs: &Matrix<'_>, row: usize, rows: usize) {
    let inner = lhs.cols;
    debug_assert_eq!(lhs.row_stride, 1);
    let whole = rows / TILE_ROWS * TILE_ROWS;
    let data = &lhs.data[row..];
    // A few panels at a time: their places lie a multiple of the cache's period apart.
    for group in (0..whole).step_by(GROUP * TILE_ROWS) {
        let end = whole.min(group + GROUP * TILE_ROWS);
        for k in 0..inner {
            let from = &data[k * lhs.col_stride..][..rows];
            for panel in (group..end).step_by(TILE_ROWS) {
                // SAFETY: the place of this panel and step.
                unsafe {
                    let to = out.add(panel * inner + k * TILE_ROWS).cast::<[f32; TILE_ROWS]>();
                    *to = *from.as_ptr().add(panel).cast::<[f32; TILE_ROWS]>();
                }
            }
        }
    }
    for k in 0..inner {
        let from = &data[k * lhs.col_stride..][..rows];
        for lane in 0..rows - whole {
            // SAFETY: as above.
            unsafe { *out.add(whole * inner + k * TILE_ROWS + lane) = from[whole + lane] };
        }
    }
}

/// The transpose of 8 x 8 numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transposed(rows: [__m256; 8]) -> [__m256; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let pairs = |x, y| (_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
    let ((ab0, ab1), (cd0, cd1), (ef0, ef1), (gh0, gh1)) =
        (pairs(a, b), pairs(c, d), pairs(e, f), pairs(g, h));
    let fours = |x, y| (_mm256_shuffle_ps::<0x44>(x, y), _mm256_shuffle_ps::<0xEE>(x, y));
    let ((low0, low1), (low2, low3)) = (fours(ab0, cd0), fours(ab1, cd1));
    let ((high0, high1), (high2, high3)) = (fours(ef0, gh0), fours(ef1, gh1));
    let lower = |x, y| _mm256_permute2f128_ps::<0x20>(x, y);
    let upper = |x, y| _mm256_permute2f128_ps::<0x31>(x, y);
    [
        lower(low0, high0),
        lower(low1, high1),
        lower(low2, high2),
        lower(low3, high3),
        upper(low0, high0),
        upper(low1, high1),
        upper(low2, high2),
        upper(low3, high3),
    ]
}
