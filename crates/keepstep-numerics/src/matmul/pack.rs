//! Copies of a product's sides in the order in which the kernel reads them.

use super::Matrix;
use super::simd::Float32;

/// Panels of the left side that are packed side by side.
const GROUP: usize = 8;

/// See [`Instructions::pack_right`](super::simd::Instructions::pack_right).
///
/// # Safety
/// There is room for whole panels, and the processor has the instructions.
#[inline(always)]
pub(super) unsafe fn right<I: Float32>(out: *mut f32, rhs: &Matrix<'_>, col: usize, cols: usize) {
    let inner = rhs.rows;
    let whole = cols / I::TILE_COLS * I::TILE_COLS;
    let data = &rhs.data[col * rhs.col_stride..];
    // SAFETY: reads stay within the matrix, writes within the room.
    unsafe {
        if rhs.col_stride == 1 {
            for k in 0..inner {
                let from = data.as_ptr().add(k * rhs.row_stride);
                for panel in (0..whole).step_by(I::TILE_COLS) {
                    let out = out.add(panel * inner + k * I::TILE_COLS);
                    I::store(out, I::load(from.add(panel)));
                    I::store(out.add(I::LANES), I::load(from.add(panel + I::LANES)));
                }
            }
        } else {
            for half in (0..whole).step_by(I::LANES) {
                let from = data.as_ptr().add(half * rhs.col_stride);
                let out = out.add(half / I::TILE_COLS * I::TILE_COLS * inner + half % I::TILE_COLS);
                let blocks = inner / I::LANES * I::LANES;
                for k in (0..blocks).step_by(I::LANES) {
                    I::transpose(out.add(k * I::TILE_COLS), I::TILE_COLS, from.add(k), rhs.col_stride);
                }
                for k in blocks..inner {
                    for lane in 0..I::LANES {
                        *out.add(k * I::TILE_COLS + lane) = *from.add(lane * rhs.col_stride + k);
                    }
                }
            }
        }
        if whole < cols {
            let out = out.add(whole * inner);
            for k in 0..inner {
                for lane in 0..I::TILE_COLS {
                    let value = if whole + lane < cols {
                        data[(whole + lane) * rhs.col_stride + k * rhs.row_stride]
                    } else {
                        0.0
                    };
                    *out.add(k * I::TILE_COLS + lane) = value;
                }
            }
        }
    }
}

/// See [`Instructions::pack_left`](super::simd::Instructions::pack_left); panels of `ROWS` rows.
///
/// # Safety
/// There is room for whole panels, and the rows lie one apart.
#[inline(always)]
pub(super) unsafe fn left<const ROWS: usize>(out: *mut f32, lhs: &Matrix<'_>, row: usize, rows: usize) {
    let inner = lhs.cols;
    debug_assert_eq!(lhs.row_stride, 1);
    let whole = rows / ROWS * ROWS;
    let data = &lhs.data[row..];
    // A few panels at a time: their places lie a multiple of the cache's period apart.
    for group in (0..whole).step_by(GROUP * ROWS) {
        let end = whole.min(group + GROUP * ROWS);
        for k in 0..inner {
            let from = &data[k * lhs.col_stride..][..rows];
            for panel in (group..end).step_by(ROWS) {
                // SAFETY: the place of this panel and step.
                unsafe {
                    let to = out.add(panel * inner + k * ROWS).cast::<[f32; ROWS]>();
                    *to = *from.as_ptr().add(panel).cast::<[f32; ROWS]>();
                }
            }
        }
    }
    for k in 0..inner {
        let from = &data[k * lhs.col_stride..][..rows];
        for lane in 0..rows - whole {
            // SAFETY: as above.
            unsafe { *out.add(whole * inner + k * ROWS + lane) = from[whole + lane] };
        }
    }
}
