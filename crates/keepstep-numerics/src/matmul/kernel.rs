//! The kernel for processors with AVX2 and FMA, or with AVX-512: tiles of 6 x 16, or of 12 x 32, results in registers.
//!
//! The right side is packed in panels of a tile's width, a chunk of which stays in the second cache. Rows of the left side
//! are read where they lie if they can be, or else packed; where they lie in columns, in panels of a tile's height. The way
//! of packing follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).

use super::aligned::Lines;
use super::packed::Packed;
use super::simd::Instructions;
use super::{Into, Task};
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::cell::RefCell;

/// Columns of a chunk of the right side: with a whole slice of the inner dimension, half of a common second cache.
const CHUNK_COLS: usize = 128;
/// Rows of the left side that are packed at a time, for all columns.
const CHUNK_ROWS: usize = 384;

/// The widest of the sets' tiles.
const MAX_COLS: usize = 32;

/// A thread's packed chunks.
struct Chunks {
    left: Lines,
    right: Lines,
}

thread_local! {
    static CHUNKS: RefCell<Chunks> = const { RefCell::new(Chunks { left: Lines::new(), right: Lines::new() }) };
}

/// Room for factors.
fn room<T>(lines: &mut Lines, factors: usize) -> *mut T {
    const { assert!(size_of::<T>() == size_of::<f32>(), "four bytes") };
    lines.grow(factors);
    lines.as_mut_ptr().cast()
}

/// One slice of the inner dimension.
///
/// # Safety
/// As [`Task::run`]; the processor has the instructions, and the inner dimension is at most a slice.
pub(crate) unsafe fn run<I: Instructions>(task: &Task<'_>, into: Into<'_>) {
    CHUNKS.with_borrow_mut(|chunks| {
        debug_assert!(task.lhs.cols <= I::SLICE);
        let steps = task.lhs.cols.div_ceil(I::STEP);
        let panels = task.packed.and_then(Packed::panels::<I>);
        let chunk: *mut I::Factor = match panels {
            Some(_) => std::ptr::null_mut(),
            None => room(&mut chunks.right, steps * task.cols.min(CHUNK_COLS).next_multiple_of(I::TILE_COLS)),
        };
        let left = Left::of::<I>(task);
        let chunk_rows = if left == Left::Matrix { task.rows } else { CHUNK_ROWS.min(task.rows) };
        let rows_len = if left == Left::Rows { I::SLICE / I::STEP } else { steps };
        let packed_left: *mut I::Factor = match left {
            Left::Matrix => std::ptr::null_mut(),
            Left::Rows | Left::Panels => {
                room(&mut chunks.left, rows_len * chunk_rows.next_multiple_of(I::TILE_ROWS))
            }
        };
        for row in (0..task.rows).step_by(chunk_rows) {
            let rows = chunk_rows.min(task.rows - row);
            // SAFETY: there is room for these rows, rounded up to whole panels.
            unsafe {
                match left {
                    Left::Matrix => {}
                    Left::Rows => I::pack_rows(packed_left, &task.lhs, row, rows),
                    Left::Panels => I::pack_left(packed_left, &task.lhs, row, rows),
                }
            }
            for col in (0..task.cols).step_by(CHUNK_COLS) {
                let cols = CHUNK_COLS.min(task.cols - col);
                let right = match panels {
                    Some(panels) => panels.wrapping_add(col * steps),
                    None => {
                        // SAFETY: there is room for these columns, rounded up to whole panels.
                        unsafe { I::pack_right(chunk, &task.rhs, col, cols) };
                        chunk.cast_const()
                    }
                };
                let mut first = row;
                while first < row + rows {
                    let height = height_of(I::TILE_ROWS.min(row + rows - first));
                    let place = first - row;
                    // SAFETY: the rows were packed above.
                    let (lhs, stride) = unsafe {
                        match left {
                            Left::Matrix => (
                                task.lhs.data[first * task.lhs.row_stride..].as_ptr().cast(),
                                task.lhs.row_stride,
                            ),
                            Left::Rows => (packed_left.add(place * rows_len).cast_const(), rows_len),
                            Left::Panels => {
                                let in_panel = place % I::TILE_ROWS;
                                (packed_left.add((place - in_panel) * steps + in_panel).cast_const(), 1)
                            }
                        }
                    };
                    for panel in (0..cols).step_by(I::TILE_COLS) {
                        let tile = Tile::<I> {
                            steps,
                            lhs,
                            stride,
                            // SAFETY: the panel was packed above.
                            rhs: unsafe { right.add(panel * steps) },
                            out: task.out.wrapping_add(first * task.out_stride + col + panel),
                            out_stride: task.out_stride,
                            width: I::TILE_COLS.min(cols - panel),
                        };
                        // SAFETY: the tile lies within the result, which nothing else touches.
                        unsafe {
                            match left {
                                Left::Panels => tile.run::<true>(height, into.from(col + panel)),
                                _ => tile.run::<false>(height, into.from(col + panel)),
                            }
                        }
                    }
                    first += height;
                }
            }
        }
    });
}

/// Where the left side's factors are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Where they lie.
    Matrix,
    /// Packed row by row.
    Rows,
    /// Packed in panels of a tile's height.
    Panels,
}

impl Left {
    fn of<I: Instructions>(task: &Task<'_>) -> Left {
        match task.lhs.col_stride {
            1 if I::READS_ROWS => Left::Matrix,
            1 => Left::Rows,
            _ => Left::Panels,
        }
    }
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
pub(crate) struct Tile<I: Instructions> {
    steps: usize,
    lhs: *const I::Factor,
    /// Between rows of the left side.
    stride: usize,
    rhs: *const I::Factor,
    out: *mut f32,
    out_stride: usize,
    /// Columns that belong to the result.
    width: usize,
}

impl<I: Instructions> Tile<I> {
    unsafe fn run<const IS_PACKED: bool>(self, height: usize, into: Into<'_>) {
        // SAFETY: handed on.
        unsafe {
            match height {
                12 => I::compute::<12, IS_PACKED>(self, into),
                8 => I::compute::<8, IS_PACKED>(self, into),
                6 => I::compute::<6, IS_PACKED>(self, into),
                5 => I::compute::<5, IS_PACKED>(self, into),
                4 => I::compute::<4, IS_PACKED>(self, into),
                3 => I::compute::<3, IS_PACKED>(self, into),
                2 => I::compute::<2, IS_PACKED>(self, into),
                _ => I::compute::<1, IS_PACKED>(self, into),
            }
        }
    }
}

/// `ROWS` rows of a tile.
///
/// # Safety
/// As [`run`].
#[inline(always)]
pub(crate) unsafe fn compute<I: Instructions, const ROWS: usize, const IS_PACKED: bool>(
    tile: Tile<I>,
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
        let unrolled = if IS_PACKED { tile.steps / 4 } else { 0 };
        for _ in 0..unrolled {
            for _ in 0..4 {
                multiply_add::<I, ROWS>(&mut sums, lhs, stride, rhs);
                lhs = lhs.add(step);
                rhs = rhs.add(I::TILE_COLS);
            }
        }
        for _ in 4 * unrolled..tile.steps {
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
                into.store(out, &line);
            }
        }
    }
}

#[inline(always)]
unsafe fn multiply_add<I: Instructions, const ROWS: usize>(
    sums: &mut [[I::Sums; 2]; ROWS],
    lhs: *const I::Factor,
    stride: usize,
    rhs: *const I::Factor,
) {
    // SAFETY: the caller's.
    unsafe {
        let right = [I::load_factors(rhs), I::load_factors(rhs.add(I::LANES))];
        for (row, sums) in sums.iter_mut().enumerate() {
            let left = I::splat(*lhs.add(row * stride));
            sums[0] = I::multiply_add(left, right[0], sums[0]);
            sums[1] = I::multiply_add(left, right[1], sums[1]);
        }
    }
}

#[inline(always)]
unsafe fn store<I: Instructions>(out: *mut f32, sums: [I::Sums; 2], into: Into<'_>) {
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
