//! Copies of a matmul's sides in the order in which the kernel reads them.

use super::matrix::Matrix;
use super::simd::SimdF32;

/// Panels of the left side that are packed together.
const GROUP: usize = 8;

/// See [`Simd::pack_right`](super::simd::Simd::pack_right).
///
/// # Safety
/// The processor has the set.
#[inline(always)]
pub(super) unsafe fn right<S: SimdF32>(out: &mut [f32], rhs: &Matrix<'_>, col: usize, cols: usize) {
    let inner = rhs.rows;
    let whole = cols / S::TILE_COLS * S::TILE_COLS;
    let data = &rhs.data[col * rhs.col_stride..];
    assert!(inner * cols.next_multiple_of(S::TILE_COLS) <= out.len(), "room for whole panels");
    debug_assert!(rhs.row_stride == 1 || rhs.col_stride == 1);
    // SAFETY: reads stay within the columns `col..col + cols` of the matrix, which lies within its data. Writes stay
    // within `inner` factors for each column of whole panels, as asserted. The caller guarantees the instructions.
    unsafe {
        let out = out.as_mut_ptr();
        if rhs.col_stride == 1 {
            for k in 0..inner {
                let from = data.as_ptr().add(k * rhs.row_stride);
                for panel in (0..whole).step_by(S::TILE_COLS) {
                    let out = out.add(panel * inner + k * S::TILE_COLS);
                    S::store(out, S::load(from.add(panel)));
                    S::store(out.add(S::LANES), S::load(from.add(panel + S::LANES)));
                }
            }
        } else {
            for half in (0..whole).step_by(S::LANES) {
                let from = data.as_ptr().add(half * rhs.col_stride);
                let out = out.add(half / S::TILE_COLS * S::TILE_COLS * inner + half % S::TILE_COLS);
                let blocks = inner / S::LANES * S::LANES;
                for k in (0..blocks).step_by(S::LANES) {
                    S::transpose(out.add(k * S::TILE_COLS), S::TILE_COLS, from.add(k), rhs.col_stride);
                }
                for k in blocks..inner {
                    for lane in 0..S::LANES {
                        *out.add(k * S::TILE_COLS + lane) = *from.add(lane * rhs.col_stride + k);
                    }
                }
            }
        }
    }
    if whole < cols {
        for (k, out) in out[whole * inner..].chunks_exact_mut(S::TILE_COLS).take(inner).enumerate() {
            for (lane, out) in out.iter_mut().enumerate() {
                let exists = whole + lane < cols;
                *out = if exists { data[(whole + lane) * rhs.col_stride + k * rhs.row_stride] } else { 0.0 };
            }
        }
    }
}

/// See [`Simd::pack_left`](super::simd::Simd::pack_left), with panels of `ROWS` rows.
#[inline(always)]
pub(super) fn left<const ROWS: usize>(out: &mut [f32], lhs: &Matrix<'_>, row: usize, rows: usize) {
    let inner = lhs.cols;
    debug_assert_eq!(lhs.row_stride, 1);
    let whole = rows / ROWS * ROWS;
    let data = &lhs.data[row..];
    let (panels, last) = out.split_at_mut(whole * inner);
    let panels = panels.as_chunks_mut::<ROWS>().0;
    // A few panels at a time: their places lie a multiple of the cache's period apart.
    for group in (0..whole / ROWS).step_by(GROUP) {
        let end = (whole / ROWS).min(group + GROUP);
        for k in 0..inner {
            let from = data[k * lhs.col_stride..][..rows].as_chunks::<ROWS>().0;
            for panel in group..end {
                panels[panel * inner + k] = from[panel];
            }
        }
    }
    if whole < rows {
        for (k, out) in last.chunks_exact_mut(ROWS).take(inner).enumerate() {
            let from = &data[k * lhs.col_stride..][whole..rows];
            out[..from.len()].copy_from_slice(from);
        }
    }
}
