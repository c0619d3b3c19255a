//! The part of a matmul that need not be computed, because one of its matrices is a triangle.

/// A triangle among the matrices of a matmul. Kernels compute less for it, tile by tile: they may still compute all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Triangle {
    /// No matrix is one.
    #[default]
    None,
    /// Of the result, only elements on and left of the diagonal are used. Others hold arbitrary values afterwards.
    Result,
    /// The left side is zero right of the diagonal. The sign of a result of zero may depend on the processor: multiplying
    /// by the last zeros can turn a sum of -0 into +0.
    LowerLeft,
    /// The left side is zero left of the diagonal. Every bit is that of the whole matmul: sums begin at +0, to which
    /// zeros add nothing.
    UpperLeft,
}

impl Triangle {
    /// The triangle itself in a block on the diagonal, and none in another.
    #[must_use]
    pub fn on_diagonal(self, is_diagonal: bool) -> Triangle {
        if is_diagonal { self } else { Triangle::None }
    }

    /// The first row that has elements of the result in the columns from `col` on, in whole tiles.
    pub(super) fn first_row(self, col: usize, tile_rows: usize) -> usize {
        if self == Triangle::Result { col / tile_rows * tile_rows } else { 0 }
    }

    /// The steps from `start` to `end` along the inner dimension that the rows from `row` to `end_row` need.
    #[inline(always)]
    pub(super) fn steps(self, row: usize, end_row: usize, start: usize, end: usize) -> (usize, usize) {
        match self {
            Triangle::None | Triangle::Result => (start, end),
            Triangle::LowerLeft => (start, end.min(end_row)),
            Triangle::UpperLeft => (end.min(row), end),
        }
    }
}
