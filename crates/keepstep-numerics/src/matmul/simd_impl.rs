//! The common parts of the implementations of [`Simd`](super::simd::Simd), as macros over the names of intrinsics.

/// The functions on registers of sums.
macro_rules! sums {
    ($vector:ty, $zero:expr, $load:ident, $store:ident, $add:ident) => {
        type Sums = $vector;

        #[inline(always)]
        unsafe fn zero() -> $vector {
            // SAFETY: the processor has the set, which every caller of the trait guarantees.
            unsafe { $zero }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> $vector {
            // SAFETY: the processor has the set, and a register's numbers can be read from the pointer on.
            unsafe { $load(from) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, sums: $vector) {
            // SAFETY: the processor has the set, and a register's numbers can be written from the pointer on.
            unsafe { $store(to, sums) }
        }

        #[inline(always)]
        unsafe fn add(one: $vector, other: $vector) -> $vector {
            // SAFETY: the processor has the set, which every caller of the trait guarantees.
            unsafe { $add(one, other) }
        }
    };
}

/// The functions on registers of float32 factors, and the generic code compiled for the set.
macro_rules! float32 {
    (
        $features:literal, $vector:ty, $lanes:literal lanes, $tile_rows:literal rows, $block_rows:literal x $part:literal blocks,
        $splat:ident, $load:ident,
        $multiply_add:expr
    ) => {
        type Factor = f32;
        type Factors = $vector;
        const SLICE: usize = $crate::matmul::definition::SLICE;
        const STEP: usize = 1;
        const LANES: usize = $lanes;
        const TILE_ROWS: usize = $tile_rows;
        const CHUNK_ROWS: usize = 768;
        const BLOCK_ROWS: usize = $block_rows;
        const PART: usize = $part;
        const READS_ROWS: bool = true;

        #[inline(always)]
        unsafe fn splat(factor: f32) -> $vector {
            // SAFETY: the processor has the set, which every caller of the trait guarantees.
            unsafe { $splat(factor) }
        }

        #[inline(always)]
        unsafe fn load_factors(from: *const f32) -> $vector {
            // SAFETY: the processor has the set, and a register's numbers can be read from the pointer on.
            unsafe { $load(from) }
        }

        #[inline(always)]
        unsafe fn multiply_add(left: $vector, right: $vector, sum: $vector) -> $vector {
            // SAFETY: the processor has the set, which every caller of the trait guarantees.
            unsafe { $multiply_add(left, right, sum) }
        }

        #[target_feature(enable = $features)]
        unsafe fn compute<const ROWS: usize, const IS_PACKED: bool>(
            tile: $crate::matmul::simd::Tile<Self>,
            accumulate: $crate::matmul::matrix::Accumulate<'_>,
        ) {
            // SAFETY: the caller guarantees the promises of the tile's fields.
            unsafe { $crate::matmul::tile::compute::<Self, ROWS, IS_PACKED>(tile, accumulate) }
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_right(
            out: &mut [f32],
            rhs: &$crate::matmul::matrix::Matrix<'_>,
            col: usize,
            cols: usize,
        ) {
            // SAFETY: this function runs only where the processor has the set.
            unsafe { $crate::matmul::pack::right::<Self>(out, rhs, col, cols) }
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_left(
            out: &mut [f32],
            lhs: &$crate::matmul::matrix::Matrix<'_>,
            row: usize,
            rows: usize,
        ) {
            // SAFETY: this function runs only where the processor has the set.
            unsafe { $crate::matmul::pack::left::<Self>(out, lhs, row, rows) }
        }

        unsafe fn pack_rows(_: &mut [f32], _: &$crate::matmul::matrix::Matrix<'_>, _: usize, _: usize) {
            unreachable!("the kernel reads float32 rows in place")
        }
    };
}

/// Transposition, from a function that transposes registers.
macro_rules! transposition {
    ($vector:ty, $lanes:literal lanes, $load:ident, $store:ident, $transposed:ident) => {
        type Square = [$vector; $lanes];

        #[inline(always)]
        unsafe fn load_transposed(from: *const f32, stride: usize) -> [$vector; $lanes] {
            // SAFETY: the processor has the set, and all rows of the square can be read.
            unsafe {
                let mut rows = [$load(from); $lanes];
                for (row, values) in rows.iter_mut().enumerate().skip(1) {
                    *values = $load(from.add(row * stride));
                }
                $transposed(rows)
            }
        }

        #[inline(always)]
        unsafe fn transpose(to: *mut f32, to_stride: usize, from: *const f32, from_stride: usize) {
            // SAFETY: the processor has the set; all rows of one square can be read and of the other written.
            unsafe {
                for (col, values) in Self::load_transposed(from, from_stride).into_iter().enumerate() {
                    $store(to.add(col * to_stride), values);
                }
            }
        }
    };
}

pub(crate) use {float32, sums, transposition};
