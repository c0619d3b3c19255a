//! The traits of a set of vector instructions. The arithmetic is written once, over these traits.
//!
//! [`tile`](super::tile) and [`pack`](super::pack) are generic over these traits. Each set inlines them into
//! functions that are compiled for its instructions: see [`simd_impl`](super::simd_impl).

use super::aligned::LINE;
use super::matrix::{Accumulate, Matrix};

/// The operations of a set of vector instructions, in one precision, that the kernel uses.
///
/// # Safety of the functions
/// A caller of any function guarantees that the processor has the set. Functions that take a pointer read or write
/// `LANES` numbers from there on; the caller guarantees that these lie in one allocation.
pub(crate) trait Simd: Sized {
    /// The unit of a packed panel, four bytes long: the numbers of one step along the inner dimension.
    type Factor: bytemuck::Pod;
    /// A register of factors.
    type Factors: Copy;
    /// A register of sums.
    type Sums: Copy;
    /// The length of a slice of the inner dimension.
    const SLICE: usize;
    /// Numbers of the inner dimension in one factor.
    const STEP: usize;
    /// Sums in a register.
    const LANES: usize;
    /// Rows of a tile. With two registers of sums each, they leave room for the factors.
    const TILE_ROWS: usize;
    /// Columns of a tile.
    const TILE_COLS: usize = 2 * Self::LANES;
    /// Steps along the inner dimension before the next rows. A panel and a tile's rows of as many steps fit into the
    /// first-level cache.
    const PART: usize;
    /// Rows of the left side that are packed at a time, for all columns.
    const CHUNK_ROWS: usize;
    /// Rows that are multiplied by one panel before the next panel: whole tiles.
    const BLOCK_ROWS: usize;
    /// Whether a slice may have more than one part.
    const HAS_PARTS: bool = Self::PART < Self::SLICE / Self::STEP;
    /// Whether the kernel reads contiguous rows of the left side in place, without packing them.
    const READS_ROWS: bool;

    /// A register with the same factor in every lane.
    unsafe fn splat(factor: Self::Factor) -> Self::Factors;
    unsafe fn load_factors(from: *const Self::Factor) -> Self::Factors;
    unsafe fn zero() -> Self::Sums;
    unsafe fn load(from: *const f32) -> Self::Sums;
    unsafe fn store(to: *mut f32, sums: Self::Sums);
    unsafe fn add(one: Self::Sums, other: Self::Sums) -> Self::Sums;
    /// `left * right + sum` for each number of a factor, rounded once.
    unsafe fn multiply_add(left: Self::Factors, right: Self::Factors, sum: Self::Sums) -> Self::Sums;

    /// Runs [`tile::compute`](super::tile::compute), compiled for this set.
    ///
    /// # Safety
    /// The tile keeps the promises of its fields.
    unsafe fn compute<const ROWS: usize, const IS_PACKED: bool>(tile: Tile<Self>, accumulate: Accumulate<'_>);

    /// Packs the columns `col..col + cols` into panels of `TILE_COLS` columns. A panel holds `TILE_COLS` factors for
    /// each step along the inner dimension; columns that the matrix does not have are zero.
    unsafe fn pack_right(out: &mut [Self::Factor], rhs: &Matrix<'_>, col: usize, cols: usize);

    /// Packs the rows `row..row + rows` of a matrix with contiguous columns into panels of `TILE_ROWS` rows. A panel
    /// holds `TILE_ROWS` factors for each step. Factors of rows that the matrix does not have may stay as they are.
    unsafe fn pack_left(out: &mut [Self::Factor], lhs: &Matrix<'_>, row: usize, rows: usize);

    /// Packs the rows `row..row + rows` of a matrix with contiguous rows, one after the other. Each takes the room of a
    /// whole slice.
    unsafe fn pack_rows(out: &mut [Self::Factor], lhs: &Matrix<'_>, row: usize, rows: usize);
}

/// A set that computes with float32 factors.
pub(crate) trait SimdF32: Simd<Factor = f32> {
    /// `LANES` registers.
    type Square: Copy + AsRef<[Self::Factors]>;

    /// Loads `LANES` rows of `LANES` numbers and returns them as columns.
    ///
    /// # Safety
    /// The rows begin `stride` apart and lie in one allocation.
    unsafe fn load_transposed(from: *const f32, stride: usize) -> Self::Square;

    /// Writes the transpose of `LANES` x `LANES` numbers.
    ///
    /// # Safety
    /// The rows of both squares begin a stride apart; each square lies in one allocation.
    unsafe fn transpose(to: *mut f32, to_stride: usize, from: *const f32, from_stride: usize);
}

/// One tile of the result, with the packed or strided factors that it is computed from.
pub(crate) struct Tile<S: Simd> {
    /// Steps along the inner dimension.
    pub(crate) steps: usize,
    /// The left side's first factor. All rows of the tile have `steps` factors.
    pub(crate) lhs: *const S::Factor,
    /// The distance between rows of the left side.
    pub(crate) lhs_stride: usize,
    /// A packed panel of the right side, of `steps * TILE_COLS` factors.
    pub(crate) rhs: *const S::Factor,
    /// The first element of the result. Nothing else accesses the tile's elements while it is computed.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
    /// Columns of the tile that belong to the result.
    pub(crate) width: usize,
    /// The tile's sums so far, one row after the other. Null where they are zero.
    pub(crate) before: *const f32,
    /// Room for the sums, if more steps follow. Null where they go to the result.
    pub(crate) after: *mut f32,
}

impl<S: Simd> Tile<S> {
    /// Computes `height` rows, one of the heights that [`height_of`] returns.
    ///
    /// # Safety
    /// The contract of [`Simd::compute`].
    pub(crate) unsafe fn run<const IS_PACKED: bool>(self, height: usize, accumulate: Accumulate<'_>) {
        // SAFETY: the caller guarantees the instructions and the promises of the tile's fields.
        unsafe {
            match height {
                12 => S::compute::<12, IS_PACKED>(self, accumulate),
                8 => S::compute::<8, IS_PACKED>(self, accumulate),
                6 => S::compute::<6, IS_PACKED>(self, accumulate),
                5 => S::compute::<5, IS_PACKED>(self, accumulate),
                4 => S::compute::<4, IS_PACKED>(self, accumulate),
                3 => S::compute::<3, IS_PACKED>(self, accumulate),
                2 => S::compute::<2, IS_PACKED>(self, accumulate),
                _ => S::compute::<1, IS_PACKED>(self, accumulate),
            }
        }
    }
}

/// Returns the length of a packed panel of the left side, in factors. A cache line more than its numbers: panels whose
/// distance is a multiple of the first-level cache's period would take each other's places.
pub(crate) const fn left_panel_len<S: Simd>(steps: usize) -> usize {
    steps * S::TILE_ROWS + LINE
}

/// The height of the tallest tile that has code, where `rows` rows are left.
pub(crate) fn height_of(rows: usize) -> usize {
    match rows {
        9..12 => 8,
        7 => 6,
        rows => rows,
    }
}
