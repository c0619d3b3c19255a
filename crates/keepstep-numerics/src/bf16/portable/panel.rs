//! Packed panels, and the tile that a pair of them gives.

use crate::matmul::problem::Problem;

/// Rows of a tile. With AVX2 its sums fill twelve registers; with NEON those of half a tile do.
pub(super) const ROWS: usize = 6;
/// Columns of a tile.
pub(super) const COLS: usize = 16;

/// A tile's sums.
pub(super) type Tile = [[f32; COLS]; ROWS];

/// A packed panel: `ROWS` rows or `COLS` columns of one slice. Numbers that the matrix does not have are zero.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) factors: &'a [f32],
    /// See [`least_magnitude`](super::pack::least_magnitude).
    pub(super) least: u32,
}

/// How a panel of the left side is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LhsLayout {
    /// Row by row, each with the length of a whole slice.
    Rows,
    /// Step by step along the inner dimension, the rows' numbers next to each other.
    Columns,
    /// A single row.
    Single,
}

impl LhsLayout {
    pub(super) fn from_problem(problem: &Problem<'_>) -> LhsLayout {
        match problem.lhs.col_stride {
            _ if problem.rows <= ROWS / 3 => LhsLayout::Single,
            1 => LhsLayout::Rows,
            _ => LhsLayout::Columns,
        }
    }

    /// Rows of a panel.
    pub(super) fn panel_rows(self) -> usize {
        if self == LhsLayout::Single { 1 } else { ROWS }
    }
}
