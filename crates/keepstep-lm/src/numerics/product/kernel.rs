//! The kernel for processors with AVX2 and FMA: tiles of 6 x 16 results in registers.
//!
//! The right side is packed in panels of 16 columns, a chunk of which stays in the second cache; rows of the left side
//! are read where they lie, or packed in panels of 6 where they lie in columns. The way of packing follows Goto and
//! van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).

use super::pack::{pack_left, pack_right};
use super::{Into, SLICE, TILE_COLS, TILE_ROWS, Task};
use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_load_ps,
    _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};
use std::cell::RefCell;

/// Columns of a chunk of the right side: with a whole slice of the inner dimension, half of a common second cache.
const CHUNK_COLS: usize = 128;
/// Rows of the left side that are packed at a time, for all columns.
const CHUNK_ROWS: usize = 64 * TILE_ROWS;

/// A cache line, and a row of a packed panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; TILE_COLS]);

/// A thread's packed chunks.
struct Packed {
    left: Vec<Line>,
    right: Vec<Line>,
}

thread_local! {
    static PACKED: RefCell<Packed> = const { RefCell::new(Packed { left: Vec::new(), right: Vec::new() }) };
}

/// Grows to what is needed, once.
fn room(lines: &mut Vec<Line>, floats: usize) -> *mut f32 {
    let len = floats.div_ceil(TILE_COLS);
    if lines.len() < len {
        lines.resize(len, Line([0.0; TILE_COLS]));
    }
    lines.as_mut_ptr().cast()
}

/// One slice of the inner dimension.
///
/// # Safety
/// As [`Task::run`]; the processor has AVX2 and FMA, and the inner dimension is at most [`SLICE`].
pub(super) unsafe fn run(task: &Task<'_>, into: Into<'_>) {
    PACKED.with_borrow_mut(|packed| {
        let inner = task.lhs.cols;
        debug_assert!(inner <= SLICE);
        let right = room(&mut packed.right, inner * task.cols.min(CHUNK_COLS).next_multiple_of(TILE_COLS));
        let is_packed = task.lhs.col_stride != 1;
        let left = if is_packed {
            room(&mut packed.left, inner * task.rows.min(CHUNK_ROWS).next_multiple_of(TILE_ROWS))
        } else {
            std::ptr::null_mut()
        };
        let chunk_rows = if is_packed { CHUNK_ROWS } else { task.rows };
        for row in (0..task.rows).step_by(chunk_rows) {
            let rows = chunk_rows.min(task.rows - row);
            if is_packed {
                // SAFETY: there is room for these rows, rounded up to whole panels.
                unsafe { pack_left(left, &task.lhs, row, rows) };
            }
            for col in (0..task.cols).step_by(CHUNK_COLS) {
                let cols = CHUNK_COLS.min(task.cols - col);
                // SAFETY: there is room for these columns, rounded up to whole panels.
                unsafe { pack_right(right, &task.rhs, col, cols) };
                for first in (row..row + rows).step_by(TILE_ROWS) {
                    let height = TILE_ROWS.min(row + rows - first);
                    let (lhs, stride) = if is_packed {
                        // SAFETY: the panel was packed above.
                        (unsafe { left.add((first - row) * inner) }.cast_const(), 0)
                    } else {
                        (task.lhs.data[first * task.lhs.row_stride..].as_ptr(), task.lhs.row_stride)
                    };
                    for panel in (0..cols).step_by(TILE_COLS) {
                        let tile = Tile {
                            inner,
                            lhs,
                            stride,
                            // SAFETY: the panel was packed above.
                            rhs: unsafe { right.add(panel * inner) },
                            out: task.out.wrapping_add(first * task.out_stride + col + panel),
                            out_stride: task.out_stride,
                            width: TILE_COLS.min(cols - panel),
                        };
                        // SAFETY: the tile lies within the result, which nothing else touches.
                        unsafe { tile.run(height, is_packed, into.from(col + panel)) };
                    }
                }
            }
        }
    });
}

/// One tile of the result.
#[derive(Clone, Copy)]
struct Tile {
    inner: usize,
    lhs: *const f32,
    /// Between rows of the left side that are not packed.
    stride: usize,
    rhs: *const f32,
    out: *mut f32,
    out_stride: usize,
    /// Columns that belong to the result.
    width: usize,
}

impl Tile {
    unsafe fn run(self, height: usize, is_packed: bool, into: Into<'_>) {
        // SAFETY: handed on.
        unsafe {
            match (height, is_packed) {
                (6, false) => self.compute::<6, false>(into),
                (5, false) => self.compute::<5, false>(into),
                (4, false) => self.compute::<4, false>(into),
                (3, false) => self.compute::<3, false>(into),
                (2, false) => self.compute::<2, false>(into),
                (_, false) => self.compute::<1, false>(into),
                (6, true) => self.compute::<6, true>(into),
                (5, true) => self.compute::<5, true>(into),
                (4, true) => self.compute::<4, true>(into),
                (3, true) => self.compute::<3, true>(into),
                (2, true) => self.compute::<2, true>(into),
                (_, true) => self.compute::<1, true>(into),
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn compute<const ROWS: usize, const IS_PACKED: bool>(self, into: Into<'_>) {
        // SAFETY: all accesses lie in the packed panels, the left side's rows and the tile of the result.
        unsafe {
            for row in 0..ROWS {
                _mm_prefetch::<_MM_HINT_T0>(self.out.add(row * self.out_stride).cast());
            }
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            let (mut lhs, mut rhs) = (self.lhs, self.rhs);
            let row_stride = if IS_PACKED { 1 } else { self.stride };
            let step = if IS_PACKED { TILE_ROWS } else { 1 };
            for _ in 0..self.inner / 4 {
                for _ in 0..4 {
                    multiply_add(&mut sums, lhs, row_stride, rhs);
                    lhs = lhs.add(step);
                    rhs = rhs.add(TILE_COLS);
                }
            }
            for _ in 0..self.inner % 4 {
                multiply_add(&mut sums, lhs, row_stride, rhs);
                lhs = lhs.add(step);
                rhs = rhs.add(TILE_COLS);
            }
            if self.width == TILE_COLS {
                for (row, sums) in sums.into_iter().enumerate() {
                    store(self.out.add(row * self.out_stride), sums, into);
                }
            } else {
                for (row, sums) in sums.into_iter().enumerate() {
                    let mut line = [0.0_f32; TILE_COLS];
                    store(line.as_mut_ptr(), sums, Into::Replace);
                    let out = std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride), self.width);
                    super::loops::store(out, into, &line);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_add<const ROWS: usize>(
    sums: &mut [[__m256; 2]; ROWS],
    lhs: *const f32,
    row_stride: usize,
    rhs: *const f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let right = [_mm256_load_ps(rhs), _mm256_load_ps(rhs.add(8))];
        for (row, sums) in sums.iter_mut().enumerate() {
            let left = _mm256_broadcast_ss(&*lhs.add(row * row_stride));
            sums[0] = _mm256_fmadd_ps(left, right[0], sums[0]);
            sums[1] = _mm256_fmadd_ps(left, right[1], sums[1]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store(out: *mut f32, sums: [__m256; 2], into: Into<'_>) {
    // SAFETY: the caller's; a bias reaches as far as the tile.
    unsafe {
        let before = match into {
            Into::Replace => {
                _mm256_storeu_ps(out, sums[0]);
                _mm256_storeu_ps(out.add(8), sums[1]);
                return;
            }
            Into::Add => out.cast_const(),
            Into::Bias(bias) => bias.as_ptr(),
        };
        _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(before), sums[0]));
        _mm256_storeu_ps(out.add(8), _mm256_add_ps(_mm256_loadu_ps(before.add(8)), sums[1]));
    }
}
