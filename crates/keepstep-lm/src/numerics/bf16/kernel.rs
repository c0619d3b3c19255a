//! What a kernel is: how it wants its matrices packed, and how it multiplies two panels.

use super::SLICE;
use crate::numerics::product::Matrix;

/// The most columns and rows that a tile has.
pub(super) const MAX_COLS: usize = 32;
/// As above.
pub(super) const MAX_ROWS: usize = 12;

/// A tile's sums, in rows of `MAX_COLS`, of which a kernel uses its own `COLS`.
pub(super) type Tile = [[f32; MAX_COLS]; MAX_ROWS];

/// How the left matrix's panels are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LhsLayout {
    /// Rows of a whole slice each, one after the other.
    Rows,
    /// The rows' members side by side.
    Columns,
    /// A panel is a single row.
    Single,
}

/// Computes tiles of `ROWS x COLS` from packed panels: a panel is `ROWS` rows (or `COLS` columns) of one slice. What lies
/// beyond the matrix is zero.
pub(super) trait Kernel {
    /// What panels consist of.
    type Element: bytemuck::Pod + Send + Sync;
    /// Rows of a tile.
    const ROWS: usize;
    /// Columns of a tile.
    const COLS: usize;

    /// Packs one panel of the left matrix, `rows` rows from `row` on, of the slice that begins at `start`; gives what
    /// [`tile`](Kernel::tile) wants to know of it.
    fn pack_lhs(
        panel: &mut [Self::Element],
        layout: LhsLayout,
        lhs: &Matrix<'_>,
        row: usize,
        rows: usize,
        start: usize,
        len: usize,
    ) -> u32;

    /// Packs one panel of the right matrix, likewise.
    fn pack_rhs(
        panel: &mut [Self::Element],
        rhs: &Matrix<'_>,
        col: usize,
        cols: usize,
        start: usize,
        len: usize,
    ) -> u32;

    /// Writes the sums of `pairs` pairs of the slice.
    fn tile(
        tile: &mut Tile,
        layout: LhsLayout,
        pairs: usize,
        lhs: (&[Self::Element], u32),
        rhs: (&[Self::Element], u32),
    );
}

/// Elements of a panel of `width` rows or columns.
pub(super) const fn panel_len(width: usize) -> usize {
    width * SLICE
}
