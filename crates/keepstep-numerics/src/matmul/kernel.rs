//! The kernel: it packs both sides, cuts a matmul into blocks, and computes these.
//!
//! The right side is packed in panels of a tile's width, and a chunk of them stays in the second-level cache.
//! Contiguous rows of the left side are read in place where the format allows it, and packed otherwise. Contiguous
//! columns are packed in panels of a tile's height. The method is that of Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication" (2008).

use super::aligned::AlignedBuffer;
use super::block::{Block, Left, LeftLayout};
use super::matrix::Accumulate;
use super::packed::PackedRhs;
use super::problem::Problem;
use super::simd::{Simd, left_panel_len};
use super::triangle::Triangle;
use std::cell::RefCell;

/// Columns of a chunk of the right side. With a whole slice of the inner dimension, a chunk fills half of a common
/// second-level cache.
const CHUNK_COLS: usize = 128;

/// A thread's packed chunks, and the sums of a block of rows between two parts of a slice.
struct Chunks {
    left: AlignedBuffer,
    right: AlignedBuffer,
    sums: AlignedBuffer,
}

thread_local! {
    static CHUNKS: RefCell<Chunks> = const {
        RefCell::new(Chunks {
            left: AlignedBuffer::new(),
            right: AlignedBuffer::new(),
            sums: AlignedBuffer::new(),
        })
    };
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
        let chunk_rows =
            if layout == LeftLayout::InPlace { slice.rows } else { S::CHUNK_ROWS.min(slice.rows) };
        let row_len = if layout == LeftLayout::Rows { S::SLICE / S::STEP } else { steps };
        let left_chunk: &mut [S::Factor] = match layout {
            LeftLayout::InPlace => &mut [],
            LeftLayout::Rows => chunks.left.grown(row_len * chunk_rows.next_multiple_of(S::TILE_ROWS)),
            LeftLayout::Panels => {
                chunks.left.grown(left_panel_len::<S>(steps) * chunk_rows.div_ceil(S::TILE_ROWS))
            }
        };
        let part = steps.div_ceil(steps.div_ceil(S::PART));
        let triangle = if S::STEP == 1 && part == steps { slice.triangle } else { Triangle::None };
        let sums: &mut [f32] = chunks.sums.grown(S::BLOCK_ROWS * S::TILE_COLS);
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
            let left = match layout {
                LeftLayout::InPlace => {
                    let start = slice.lhs.data[row * slice.lhs.row_stride..].as_ptr().cast();
                    Left::rows::<S>(start, slice.lhs.row_stride)
                }
                LeftLayout::Rows => Left::rows::<S>(left_chunk.as_ptr(), row_len),
                LeftLayout::Panels => Left::panels::<S>(left_chunk.as_ptr(), steps),
            };
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
                for block in (0..rows).step_by(S::BLOCK_ROWS) {
                    let rows = S::BLOCK_ROWS.min(rows - block);
                    for panel in (0..cols).step_by(S::TILE_COLS) {
                        let block = Block::<S> {
                            steps,
                            part,
                            left: left.at_row::<S>(block),
                            right: right.wrapping_add(panel * steps),
                            out: slice.out.wrapping_add((row + block) * slice.out_stride + col + panel),
                            out_stride: slice.out_stride,
                            rows,
                            first_row: row + block,
                            first_col: col + panel,
                            triangle,
                            width: S::TILE_COLS.min(cols - panel),
                            sums: sums.as_mut_ptr(),
                        };
                        let accumulate = accumulate.at_col(col + panel);
                        // SAFETY: the block's rows of the left side and its panel of the right side are packed or in
                        // place. Its elements lie within the result, which the caller guarantees to be ours alone.
                        unsafe {
                            match layout {
                                LeftLayout::Panels => block.run::<true>(accumulate),
                                _ => block.run::<false>(accumulate),
                            }
                        }
                    }
                }
            }
        }
    });
}
