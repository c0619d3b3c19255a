//! The kernel for processors with AVX2 and FMA, or with AVX-512: tiles of 6 x 16, or of 12 x 32, results in registers.
//!
//! The right side is packed in panels of a tile's width, a chunk of which stays in the second cache; rows of the left side
//! are read where they lie, or packed in panels of a tile's height where they lie in columns. The way of packing follows
//! Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).

use super::instructions::Instructions;
use super::{Into, SLICE, Task};
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::cell::RefCell;

/// Columns of a chunk of the right side: with a whole slice of the inner dimension, half of a common second cache.
const CHUNK_COLS: usize = 128;
/// Rows of the left side that are packed at a time, for all columns.
const CHUNK_ROWS: usize = 384;

/// The widest of the sets' tiles.
const MAX_COLS: usize = 32;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

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
    let len = floats.div_ceil(16);
    if lines.len() < len {
        lines.resize(len, Line([0.0; 16]));
    }
    lines.as_mut_ptr().cast()
}

/// One slice of the inner dimension.
///
/// # Safety
/// As [`Task::run`]; the processor has the instructions, and the inner dimension is at most [`SLICE`].
pub(super) unsafe fn run<I: Instructions>(task: &Task<'_>, into: Into<'_>) {
    PACKED.with_borrow_mut(|packed| {
        let inner = task.lhs.cols;
        debug_assert!(inner <= SLICE);
        let right = room(&mut packed.right, inner * task.cols.min(CHUNK_COLS).next_multiple_of(I::TILE_COLS));
        let is_packed = task.lhs.col_stride != 1;
        let left = if is_packed {
            room(&mut packed.left, inner * task.rows.min(CHUNK_ROWS).next_multiple_of(I::TILE_ROWS))
        } else {
            std::ptr::null_mut()
        };
        let chunk_rows = if is_packed { CHUNK_ROWS } else { task.rows };
        for row in (0..task.rows).step_by(chunk_rows) {
            let rows = chunk_rows.min(task.rows - row);
            if is_packed {
                // SAFETY: there is room for these rows, rounded up to whole panels.
                unsafe { I::pack_left(left, &task.lhs, row, rows) };
            }
            for col in (0..task.cols).step_by(CHUNK_COLS) {
                let cols = CHUNK_COLS.min(task.cols - col);
                // SAFETY: there is room for these columns, rounded up to whole panels.
                unsafe { I::pack_right(right, &task.rhs, col, cols) };
                let mut first = row;
                while first < row + rows {
                    let height = height_of(I::TILE_ROWS.min(row + rows - first));
                    let (lhs, stride) = if is_packed {
                        let (panel, place) =
                            ((first - row) / I::TILE_ROWS * I::TILE_ROWS, (first - row) % I::TILE_ROWS);
                        // SAFETY: the panel was packed above.
                        (unsafe { left.add(panel * inner + place) }.cast_const(), 1)
                    } else {
                        (task.lhs.data[first * task.lhs.row_stride..].as_ptr(), task.lhs.row_stride)
                    };
                    for panel in (0..cols).step_by(I::TILE_COLS) {
                        let tile = Tile {
                            inner,
                            lhs,
                            stride,
                            // SAFETY: the panel was packed above.
                            rhs: unsafe { right.add(panel * inner) },
                            out: task.out.wrapping_add(first * task.out_stride + col + panel),
                            out_stride: task.out_stride,
                            width: I::TILE_COLS.min(cols - panel),
                        };
                        // SAFETY: the tile lies within the result, which nothing else touches.
                        unsafe { tile.run::<I>(height, is_packed, into.from(col + panel)) };
                    }
                    first += height;
                }
            }
        }
    });
}

/// The tallest tile that there is code for, where `rows` are left.
fn height_of(rows: usize) -> usize {
    match rows {
        9..12 => 8,
        7 => 6,
        rows => rows,
    }
}

/// One tile of the result.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    inner: usize,
    lhs: *const f32,
    /// Between rows of the left side.
    stride: usize,
    rhs: *const f32,
    out: *mut f32,
    out_stride: usize,
    /// Columns that belong to the result.
    width: usize,
}

impl Tile {
    unsafe fn run<I: Instructions>(self, height: usize, is_packed: bool, into: Into<'_>) {
        // SAFETY: handed on.
        unsafe {
            match (height, is_packed) {
                (12, false) => I::compute::<12, false>(self, into),
                (8, false) => I::compute::<8, false>(self, into),
                (6, false) => I::compute::<6, false>(self, into),
                (5, false) => I::compute::<5, false>(self, into),
                (4, false) => I::compute::<4, false>(self, into),
                (3, false) => I::compute::<3, false>(self, into),
                (2, false) => I::compute::<2, false>(self, into),
                (_, false) => I::compute::<1, false>(self, into),
                (12, true) => I::compute::<12, true>(self, into),
                (8, true) => I::compute::<8, true>(self, into),
                (6, true) => I::compute::<6, true>(self, into),
                (5, true) => I::compute::<5, true>(self, into),
                (4, true) => I::compute::<4, true>(self, into),
                (3, true) => I::compute::<3, true>(self, into),
                (2, true) => I::compute::<2, true>(self, into),
                (_, true) => I::compute::<1, true>(self, into),
            }
        }
    }
}

/// `ROWS` rows of a tile.
///
/// # Safety
/// As [`run`].
#[inline(always)]
pub(super) unsafe fn compute<I: Instructions, const ROWS: usize, const IS_PACKED: bool>(
    tile: Tile,
    into: Into<'_>,
) {
    // SAFETY: all accesses lie in the packed panels, the left side's rows and the tile of the result.
    unsafe {
        for row in 0..ROWS {
            let out = tile.out.wrapping_add(row * tile.out_stride);
            _mm_prefetch::<_MM_HINT_T0>(out.cast());
            _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(I::TILE_COLS - 1).cast());
        }
        let mut sums = [[I::zero(); 2]; ROWS];
        let (mut lhs, mut rhs) = (tile.lhs, tile.rhs);
        let stride = if IS_PACKED { 1 } else { tile.stride };
        let step = if IS_PACKED { I::TILE_ROWS } else { 1 };
        // Unrolled over rows that are not packed, the compiler loads ahead more than there are registers.
        let unrolled = if IS_PACKED { tile.inner / 4 } else { 0 };
        for _ in 0..unrolled {
            for _ in 0..4 {
                multiply_add::<I, ROWS>(&mut sums, lhs, stride, rhs);
                lhs = lhs.add(step);
                rhs = rhs.add(I::TILE_COLS);
            }
        }
        for _ in 4 * unrolled..tile.inner {
            multiply_add::<I, ROWS>(&mut sums, lhs, stride, rhs);
            lhs = lhs.add(step);
            rhs = rhs.add(I::TILE_COLS);
        }
        if tile.width == I::TILE_COLS {
            for (row, sums) in sums.into_iter().enumerate() {
                store::<I>(tile.out.add(row * tile.out_stride), sums, into);
            }
        } else {
            for (row, sums) in sums.into_iter().enumerate() {
                let mut line = [0.0_f32; MAX_COLS];
                store::<I>(line.as_mut_ptr(), sums, Into::Replace);
                let out = std::slice::from_raw_parts_mut(tile.out.add(row * tile.out_stride), tile.width);
                super::loops::store(out, into, &line);
            }
        }
    }
}

#[inline(always)]
unsafe fn multiply_add<I: Instructions, const ROWS: usize>(
    sums: &mut [[I::Vector; 2]; ROWS],
    lhs: *const f32,
    stride: usize,
    rhs: *const f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let right = [I::load(rhs), I::load(rhs.add(I::LANES))];
        for (row, sums) in sums.iter_mut().enumerate() {
            let left = I::splat(*lhs.add(row * stride));
            sums[0] = I::multiply_add(left, right[0], sums[0]);
            sums[1] = I::multiply_add(left, right[1], sums[1]);
        }
    }
}

#[inline(always)]
unsafe fn store<I: Instructions>(out: *mut f32, sums: [I::Vector; 2], into: Into<'_>) {
    // SAFETY: the caller's; a bias reaches as far as the tile.
    unsafe {
        let before = match into {
            Into::Replace => {
                I::store(out, sums[0]);
                I::store(out.add(I::LANES), sums[1]);
                return;
            }
            Into::Add => out.cast_const(),
            Into::Bias(bias) => bias.as_ptr(),
        };
        I::store(out, I::add(I::load(before), sums[0]));
        I::store(out.add(I::LANES), I::add(I::load(before.add(I::LANES)), sums[1]));
    }
}
