//! The kernel: it computes tiles of the result in registers. A tile has 6 x 16 elements with AVX2, 12 x 32 with AVX-512
//! and
//! 12 x 8 with NEON.
//!
//! The right side is packed in panels of a tile's width, and a chunk of them stays in the second-level cache.
//! Contiguous rows of the left side are read in place where the format allows it, and packed otherwise. Contiguous
//! columns are packed in panels of a tile's height. The method is that of Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication" (2008).

use super::aligned::AlignedBuffer;
use super::matrix::Accumulate;
use super::packed::{PackedRhs, WIDEST_TILE};
use super::prefetch::prefetch;
use super::problem::Problem;
use super::simd::{Simd, Tile, height_of};
use std::cell::RefCell;

/// Columns of a chunk of the right side. With a whole slice of the inner dimension, a chunk fills half of a common
/// second-level cache.
const CHUNK_COLS: usize = 128;
/// Rows of the left side that are packed at a time, for all columns.
const CHUNK_ROWS: usize = 384;

/// A thread's packed chunks.
struct Chunks {
    left: AlignedBuffer,
    right: AlignedBuffer,
}

thread_local! {
    static CHUNKS: RefCell<Chunks> =
        const { RefCell::new(Chunks { left: AlignedBuffer::new(), right: AlignedBuffer::new() }) };
}

/// Computes one slice of the inner dimension.
///
/// # Safety
/// The processor has the set, and nothing else accesses the result during the call.
pub(crate) unsafe fn run<S: Simd>(slice: &Problem<'_>, accumulate: Accumulate<'_>) {
    CHUNKS.with_borrow_mut(|chunks| {
        assert!(slice.lhs.cols <= S::SLICE, "at most a slice");
        let steps = slice.lhs.cols.div_ceil(S::STEP);
        let panels = slice.packed.and_then(PackedRhs::panels::<S>);
        let right_chunk: &mut [S::Factor] = match panels {
            Some(_) => &mut [],
            None => chunks.right.grown(steps * slice.cols.min(CHUNK_COLS).next_multiple_of(S::TILE_COLS)),
        };
        let layout = LeftLayout::from_problem::<S>(slice);
        let chunk_rows = if layout == LeftLayout::InPlace { slice.rows } else { CHUNK_ROWS.min(slice.rows) };
        let row_len = if layout == LeftLayout::Rows { S::SLICE / S::STEP } else { steps };
        let left_chunk: &mut [S::Factor] = match layout {
            LeftLayout::InPlace => &mut [],
            LeftLayout::Rows | LeftLayout::Panels => {
                chunks.left.grown(row_len * chunk_rows.next_multiple_of(S::TILE_ROWS))
            }
        };
        for row in (0..slice.rows).step_by(chunk_rows) {
            let rows = chunk_rows.min(slice.rows - row);
            // SAFETY: the caller guarantees the instructions.
            unsafe {
                match layout {
                    LeftLayout::InPlace => {}
                    LeftLayout::Rows => S::pack_rows(left_chunk, &slice.lhs, row, rows),
                    LeftLayout::Panels => S::pack_left(left_chunk, &slice.lhs, row, rows),
                }
            }
            for col in (0..slice.cols).step_by(CHUNK_COLS) {
                let cols = CHUNK_COLS.min(slice.cols - col);
                let right = match panels {
                    Some(panels) => panels.wrapping_add(col * steps),
                    None => {
                        // SAFETY: the caller guarantees the instructions.
                        unsafe { S::pack_right(right_chunk, &slice.rhs, col, cols) };
                        right_chunk.as_ptr()
                    }
                };
                let mut first = row;
                while first < row + rows {
                    let height = height_of(S::TILE_ROWS.min(row + rows - first));
                    let place = first - row;
                    let (lhs, lhs_stride) = match layout {
                        LeftLayout::InPlace => (
                            slice.lhs.data[first * slice.lhs.row_stride..].as_ptr().cast(),
                            slice.lhs.row_stride,
                        ),
                        LeftLayout::Rows => (left_chunk[place * row_len..].as_ptr(), row_len),
                        LeftLayout::Panels => {
                            let in_panel = place % S::TILE_ROWS;
                            (left_chunk[(place - in_panel) * steps + in_panel..].as_ptr(), 1)
                        }
                    };
                    for panel in (0..cols).step_by(S::TILE_COLS) {
                        let tile = Tile::<S> {
                            steps,
                            lhs,
                            lhs_stride,
                            rhs: right.wrapping_add(panel * steps),
                            out: slice.out.wrapping_add(first * slice.out_stride + col + panel),
                            out_stride: slice.out_stride,
                            width: S::TILE_COLS.min(cols - panel),
                        };
                        // SAFETY: the tile's rows of the left side and its panel of the right side are packed or in
                        // place. Its elements lie within the result, which the caller guarantees to be ours alone.
                        unsafe {
                            match layout {
                                LeftLayout::Panels => {
                                    tile.run::<true>(height, accumulate.at_col(col + panel))
                                }
                                _ => tile.run::<false>(height, accumulate.at_col(col + panel)),
                            }
                        }
                    }
                    first += height;
                }
            }
        }
    });
}

/// The place from which the kernel reads the left side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeftLayout {
    /// The matrix itself.
    InPlace,
    /// A copy, packed row by row.
    Rows,
    /// A copy, packed in panels of a tile's height.
    Panels,
}

impl LeftLayout {
    fn from_problem<S: Simd>(problem: &Problem<'_>) -> LeftLayout {
        match problem.lhs.col_stride {
            1 if S::READS_ROWS => LeftLayout::InPlace,
            1 => LeftLayout::Rows,
            _ => LeftLayout::Panels,
        }
    }
}

/// Computes `ROWS` rows of a tile.
///
/// # Safety
/// The contract of [`Simd::compute`].
#[inline(always)]
pub(crate) unsafe fn compute<S: Simd, const ROWS: usize, const IS_PACKED: bool>(
    tile: Tile<S>,
    accumulate: Accumulate<'_>,
) {
    const { assert!(S::TILE_COLS <= WIDEST_TILE) };
    // SAFETY: by the tile's promises, each row of the left side has `steps` factors, the panel of the right side has
    // `steps * TILE_COLS`, and the tile's elements of the result are ours alone. The caller guarantees the
    // instructions.
    unsafe {
        for row in 0..ROWS {
            let out = tile.out.wrapping_add(row * tile.out_stride);
            prefetch(out);
            prefetch(out.wrapping_add(S::TILE_COLS - 1));
        }
        let mut sums = [[S::zero(); 2]; ROWS];
        let (mut lhs, mut rhs) = (tile.lhs, tile.rhs);
        let stride = if IS_PACKED { 1 } else { tile.lhs_stride };
        let step = if IS_PACKED { S::TILE_ROWS } else { 1 };
        // Unrolled over rows in place, the compiler would load ahead more than there are registers.
        let unrolled = if IS_PACKED { tile.steps / 4 } else { 0 };
        for _ in 0..unrolled {
            for _ in 0..4 {
                multiply_add::<S, ROWS>(&mut sums, lhs, stride, rhs);
                lhs = lhs.add(step);
                rhs = rhs.add(S::TILE_COLS);
            }
        }
        for _ in 4 * unrolled..tile.steps {
            multiply_add::<S, ROWS>(&mut sums, lhs, stride, rhs);
            lhs = lhs.add(step);
            rhs = rhs.add(S::TILE_COLS);
        }
        if tile.width == S::TILE_COLS {
            for (row, sums) in sums.into_iter().enumerate() {
                store::<S>(tile.out.add(row * tile.out_stride), sums, accumulate);
            }
        } else {
            for (row, sums) in sums.into_iter().enumerate() {
                let mut line = [0.0_f32; WIDEST_TILE];
                store::<S>(line.as_mut_ptr(), sums, Accumulate::Replace);
                let out = std::slice::from_raw_parts_mut(tile.out.add(row * tile.out_stride), tile.width);
                accumulate.store(out, &line);
            }
        }
    }
}

/// One step along the inner dimension.
///
/// # Safety
/// The processor has the set. The left side has a factor for each row, the right side for each column of a tile.
#[inline(always)]
unsafe fn multiply_add<S: Simd, const ROWS: usize>(
    sums: &mut [[S::Sums; 2]; ROWS],
    lhs: *const S::Factor,
    stride: usize,
    rhs: *const S::Factor,
) {
    // SAFETY: the caller guarantees the factors and the instructions.
    unsafe {
        let right = [S::load_factors(rhs), S::load_factors(rhs.add(S::LANES))];
        for (row, sums) in sums.iter_mut().enumerate() {
            let left = S::splat(*lhs.add(row * stride));
            sums[0] = S::multiply_add(left, right[0], sums[0]);
            sums[1] = S::multiply_add(left, right[1], sums[1]);
        }
    }
}

/// Writes one row of a tile.
///
/// # Safety
/// The processor has the set. The row and a bias have `TILE_COLS` numbers, and nothing else accesses the row.
#[inline(always)]
unsafe fn store<S: Simd>(out: *mut f32, sums: [S::Sums; 2], accumulate: Accumulate<'_>) {
    // SAFETY: the caller guarantees the numbers and the instructions.
    unsafe {
        let before = match accumulate {
            Accumulate::Replace => {
                S::store(out, sums[0]);
                S::store(out.add(S::LANES), sums[1]);
                return;
            }
            Accumulate::Add => out.cast_const(),
            Accumulate::Bias(bias) => bias.as_ptr(),
        };
        S::store(out, S::add(S::load(before), sums[0]));
        S::store(out.add(S::LANES), S::add(S::load(before.add(S::LANES)), sums[1]));
    }
}
