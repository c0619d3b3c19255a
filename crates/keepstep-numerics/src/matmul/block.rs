//! A block: rows of the left side times one panel of the right side, tile by tile.

use super::matrix::Accumulate;
use super::problem::Problem;
use super::simd::{Simd, Tile, height_of, left_panel_len};
use super::triangle::Triangle;

/// The place of the left side's rows.
#[derive(Clone, Copy)]
pub(super) struct Left<F> {
    start: *const F,
    /// The distance between rows of a tile.
    row_stride: usize,
    /// The distance between tiles.
    panel_stride: usize,
}

impl<F> Left<F> {
    /// Rows that lie one after the other, `stride` apart.
    pub(super) fn rows<S: Simd>(start: *const F, stride: usize) -> Left<F> {
        Left { start, row_stride: stride, panel_stride: stride * S::TILE_ROWS }
    }

    /// Panels of a tile's height.
    pub(super) fn panels<S: Simd>(start: *const F, steps: usize) -> Left<F> {
        Left { start, row_stride: 1, panel_stride: left_panel_len::<S>(steps) }
    }

    /// Returns the rows from this one on, the first of a tile.
    pub(super) fn at_row<S: Simd>(self, row: usize) -> Left<F> {
        Left { start: self.start.wrapping_add(row / S::TILE_ROWS * self.panel_stride), ..self }
    }
}

/// Rows of the left side, times one panel of the right side.
pub(super) struct Block<S: Simd> {
    /// Steps along the inner dimension.
    pub(super) steps: usize,
    /// Steps of a part: see [`Simd::PART`].
    pub(super) part: usize,
    pub(super) left: Left<S::Factor>,
    /// A packed panel, of `steps * TILE_COLS` factors.
    pub(super) right: *const S::Factor,
    /// The first element of the result. Nothing else accesses the block's elements while it is computed.
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    pub(super) rows: usize,
    /// The block's place in the matmul.
    pub(super) first_row: usize,
    pub(super) first_col: usize,
    /// What need not be computed. None, if the inner dimension has several parts.
    pub(super) triangle: Triangle,
    /// Columns that belong to the result.
    pub(super) width: usize,
    /// Room for the sums of all tiles, between two parts.
    pub(super) sums: *mut f32,
}

impl<S: Simd> Block<S> {
    /// Computes the block in parts of the inner dimension. A part of the panel stays in the first-level cache, while the
    /// rows pass by.
    ///
    /// # Safety
    /// The contract of [`Simd::compute`], for all tiles.
    pub(super) unsafe fn run<const IS_PACKED: bool>(&self, accumulate: Accumulate<'_>) {
        let mut start = 0;
        loop {
            let end = if S::HAS_PARTS { self.steps.min(start + self.part) } else { self.steps };
            // Blocks begin at whole tiles.
            let first_row =
                self.triangle.first_row(self.first_col, S::TILE_ROWS).saturating_sub(self.first_row);
            for row in (first_row..self.rows).step_by(S::TILE_ROWS) {
                let left = self.left.at_row::<S>(row).start;
                let mut done = 0;
                let rows = S::TILE_ROWS.min(self.rows - row);
                while done < rows {
                    let height = height_of(rows - done);
                    let in_matmul = self.first_row + row + done;
                    let (first, last) = self.triangle.steps(in_matmul, in_matmul + height, start, end);
                    let first_factor = if IS_PACKED { first * S::TILE_ROWS } else { first };
                    let sums = self.sums.wrapping_add((row + done) * S::TILE_COLS);
                    let tile = Tile::<S> {
                        steps: last - first,
                        lhs: left.wrapping_add(done * self.left.row_stride + first_factor),
                        lhs_stride: self.left.row_stride,
                        rhs: self.right.wrapping_add(first * S::TILE_COLS),
                        out: self.out.wrapping_add((row + done) * self.out_stride),
                        out_stride: self.out_stride,
                        width: self.width,
                        before: if start == 0 { std::ptr::null() } else { sums },
                        after: if end == self.steps { std::ptr::null_mut() } else { sums },
                    };
                    // SAFETY: the caller guarantees the promises of the tile's fields.
                    unsafe { tile.run::<IS_PACKED>(height, accumulate) };
                    done += height;
                }
            }
            if end == self.steps {
                break;
            }
            start = end;
        }
    }
}

/// The place from which the kernel reads the left side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftLayout {
    /// The matrix itself.
    InPlace,
    /// A copy, packed row by row.
    Rows,
    /// A copy, packed in panels of a tile's height.
    Panels,
}

impl LeftLayout {
    pub(super) fn from_problem<S: Simd>(problem: &Problem<'_>) -> LeftLayout {
        match problem.lhs.col_stride {
            1 if S::READS_ROWS => LeftLayout::InPlace,
            1 => LeftLayout::Rows,
            _ => LeftLayout::Panels,
        }
    }
}
