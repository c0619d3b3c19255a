//! Copies of a matmul's sides in the order in which the kernel reads them.

use super::aligned::LINE;
use super::matrix::Matrix;
use super::prefetch::prefetch;
use super::simd::{SimdF32, left_panel_len};

/// Steps along the inner dimension between the one that is packed and the one that is asked for. Processors do not load
/// rows ahead that lie in pages of their own.
const AHEAD: usize = 16;
/// Panels of the left side that are packed together.
const GROUP: usize = 32;

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
                for line in (0..whole).step_by(LINE) {
                    prefetch(from.wrapping_add(AHEAD * rhs.row_stride + line));
                }
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

/// See [`Simd::pack_left`](super::simd::Simd::pack_left).
///
/// # Safety
/// The processor has the set.
#[inline(always)]
pub(super) unsafe fn left<S: SimdF32>(out: &mut [f32], lhs: &Matrix<'_>, row: usize, rows: usize) {
    let inner = lhs.cols;
    let (height, panel_len) = (S::TILE_ROWS, left_panel_len::<S>(inner));
    debug_assert_eq!(lhs.row_stride, 1);
    let data = &lhs.data[row..];
    assert!(inner == 0 || (inner - 1) * lhs.col_stride + rows <= data.len(), "the matrix's rows");
    assert!(rows.div_ceil(height) * panel_len <= out.len(), "room for whole panels");
    // Whole registers are copied. What the last one of a step has too much lies where the next step is copied later, or
    // in the line after the panel. Panels at the matrix's edge are copied number by number.
    let width = height.next_multiple_of(S::LANES);
    let panels = if rows < width { 0 } else { (rows - width) / height + 1 };
    const { assert!(S::TILE_ROWS.next_multiple_of(S::LANES) - S::TILE_ROWS <= LINE) };
    for first in (0..panels).step_by(GROUP) {
        let group = first..panels.min(first + GROUP);
        for k in 0..inner {
            let from = data.as_ptr().wrapping_add(k * lhs.col_stride);
            let ahead = from.wrapping_add(AHEAD * lhs.col_stride);
            for line in (group.start * height..group.end * height + LINE - 1).step_by(LINE) {
                prefetch(ahead.wrapping_add(line));
            }
            for panel in group.clone() {
                // SAFETY: a panel begins at most `rows - width` numbers after a row's start, so the row has all that is
                // read. At most `LINE` numbers are written after a step's own, and a panel has as many after its last
                // step. The caller guarantees the instructions.
                unsafe {
                    let from = from.add(panel * height);
                    let to = out.as_mut_ptr().add(panel * panel_len + k * height);
                    for lane in (0..height).step_by(S::LANES) {
                        S::store(to.add(lane), S::load(from.add(lane)));
                    }
                }
            }
        }
    }
    for panel in panels..rows.div_ceil(height) {
        let height = height.min(rows - panel * height);
        for k in 0..inner {
            let from = &data[k * lhs.col_stride + panel * S::TILE_ROWS..][..height];
            out[panel * panel_len + k * S::TILE_ROWS..][..height].copy_from_slice(from);
        }
    }
}
