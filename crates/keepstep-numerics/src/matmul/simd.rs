//! The sets of vector instructions that the kernel is compiled for.
//!
//! The arithmetic is written once, in [`kernel`](super::kernel) and [`pack`](super::pack), and is inlined into functions
//! that may use a set's instructions. The third set, for bfloat16, is in [`bf16`](crate::bf16).

use super::kernel::{self, Tile};
use super::{Into, Matrix, pack};
use std::arch::x86_64::{
    __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_shuffle_ps, _mm512_storeu_ps, _mm512_unpackhi_ps, _mm512_unpacklo_ps,
};

/// What the kernel needs of a set of instructions, and of a precision.
///
/// Every function may be called only where the processor has the set, and only with pointers that reach as far as it says.
pub(crate) trait Instructions: Sized {
    /// What panels consist of, four bytes: the number, or the numbers, of one step of the inner dimension.
    type Factor: Copy;
    /// A register of factors.
    type Factors: Copy;
    /// A register of sums.
    type Sums: Copy;
    /// Numbers of the inner dimension that are summed by themselves.
    const SLICE: usize;
    /// Numbers of the inner dimension that a factor holds.
    const STEP: usize;
    /// Sums in a register.
    const LANES: usize;
    /// Rows of a tile: with two registers each, as many as leave room for the factors.
    const TILE_ROWS: usize;
    /// Columns of a tile.
    const TILE_COLS: usize = 2 * Self::LANES;
    /// Whether contiguous rows of the left side are factors where they lie.
    const READS_ROWS: bool;

    /// The same factor in every place of a register.
    unsafe fn splat(factor: Self::Factor) -> Self::Factors;
    unsafe fn load_factors(from: *const Self::Factor) -> Self::Factors;
    unsafe fn zero() -> Self::Sums;
    unsafe fn load(from: *const f32) -> Self::Sums;
    unsafe fn store(to: *mut f32, sums: Self::Sums);
    unsafe fn add(one: Self::Sums, other: Self::Sums) -> Self::Sums;
    /// `left * right + sum`, rounded once, for each number of a factor.
    unsafe fn multiply_add(left: Self::Factors, right: Self::Factors, sum: Self::Sums) -> Self::Sums;

    /// See [`kernel::compute`].
    unsafe fn compute<const ROWS: usize, const IS_PACKED: bool>(tile: Tile<Self>, into: Into<'_>);
    /// Columns `col..col + cols` in panels of a tile's width: a panel has that many factors for each step, zeros where no
    /// column is left. There is room for whole panels.
    unsafe fn pack_right(out: *mut Self::Factor, rhs: &Matrix<'_>, col: usize, cols: usize);
    /// Rows `row..row + rows`, which lie one apart, in panels of a tile's height: a panel has that many factors for each
    /// step. The places of rows that the last panel lacks need not be written, but there is room for them.
    unsafe fn pack_left(out: *mut Self::Factor, lhs: &Matrix<'_>, row: usize, rows: usize);
    /// Rows `row..row + rows`, which are contiguous: a slice's factors of each, one row after the other.
    unsafe fn pack_rows(out: *mut Self::Factor, lhs: &Matrix<'_>, row: usize, rows: usize);
}

/// What is compiled for a set whose factors are float32 numbers.
pub(super) trait Float32: Instructions<Factor = f32> {
    /// The transpose of `LANES` x `LANES` numbers.
    unsafe fn transpose(to: *mut f32, to_stride: usize, from: *const f32, from_stride: usize);
}

/// What a set does with registers of sums.
macro_rules! sums {
    ($vector:ty, $zero:ident, $load:ident, $store:ident, $add:ident) => {
        type Sums = $vector;

        #[inline(always)]
        unsafe fn zero() -> $vector {
            // SAFETY: the caller's.
            unsafe { $zero() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> $vector {
            // SAFETY: the caller's.
            unsafe { $load(from) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, sums: $vector) {
            // SAFETY: the caller's.
            unsafe { $store(to, sums) }
        }

        #[inline(always)]
        unsafe fn add(one: $vector, other: $vector) -> $vector {
            // SAFETY: the caller's.
            unsafe { $add(one, other) }
        }
    };
}
pub(crate) use sums;

/// What a set does with float32 factors, and what is compiled for it.
macro_rules! float32 {
    ($features:literal, $vector:ty, $lanes:literal, $tile_rows:literal, $splat:ident, $load:ident, $multiply_add:ident) => {
        type Factor = f32;
        type Factors = $vector;
        const SLICE: usize = super::SLICE;
        const STEP: usize = 1;
        const LANES: usize = $lanes;
        const TILE_ROWS: usize = $tile_rows;
        const READS_ROWS: bool = true;

        #[inline(always)]
        unsafe fn splat(factor: f32) -> $vector {
            // SAFETY: the caller's.
            unsafe { $splat(factor) }
        }

        #[inline(always)]
        unsafe fn load_factors(from: *const f32) -> $vector {
            // SAFETY: the caller's.
            unsafe { $load(from) }
        }

        #[inline(always)]
        unsafe fn multiply_add(left: $vector, right: $vector, sum: $vector) -> $vector {
            // SAFETY: the caller's.
            unsafe { $multiply_add(left, right, sum) }
        }

        #[target_feature(enable = $features)]
        unsafe fn compute<const ROWS: usize, const IS_PACKED: bool>(tile: Tile<Self>, into: Into<'_>) {
            // SAFETY: handed on.
            unsafe { kernel::compute::<Self, ROWS, IS_PACKED>(tile, into) }
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_right(out: *mut f32, rhs: &Matrix<'_>, col: usize, cols: usize) {
            // SAFETY: handed on.
            unsafe { pack::right::<Self>(out, rhs, col, cols) }
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_left(out: *mut f32, lhs: &Matrix<'_>, row: usize, rows: usize) {
            // SAFETY: handed on.
            unsafe {
                pack::left::<$tile_rows>(out, lhs, row, rows);
            }
        }

        unsafe fn pack_rows(_: *mut f32, _: &Matrix<'_>, _: usize, _: usize) {
            unreachable!("rows are read where they lie")
        }
    };
}

/// AVX2 and FMA: sixteen registers.
pub(super) struct Avx2;

impl Instructions for Avx2 {
    sums!(__m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps);
    float32!("avx2,fma", __m256, 8, 6, _mm256_set1_ps, _mm256_loadu_ps, _mm256_fmadd_ps);
}

impl Float32 for Avx2 {
    #[inline(always)]
    unsafe fn transpose(to: *mut f32, to_stride: usize, from: *const f32, from_stride: usize) {
        // SAFETY: the caller's.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (row, values) in rows.iter_mut().enumerate() {
                *values = _mm256_loadu_ps(from.add(row * from_stride));
            }
            // Pairs of rows, then fours, within each half of a register; then the halves.
            let mut pairs = rows;
            for index in (0..8).step_by(2) {
                pairs[index] = _mm256_unpacklo_ps(rows[index], rows[index + 1]);
                pairs[index + 1] = _mm256_unpackhi_ps(rows[index], rows[index + 1]);
            }
            let mut fours = pairs;
            for group in (0..8).step_by(4) {
                for half in 0..2 {
                    let (one, other) = (pairs[group + half], pairs[group + half + 2]);
                    fours[group + 2 * half] = _mm256_shuffle_ps::<0x44>(one, other);
                    fours[group + 2 * half + 1] = _mm256_shuffle_ps::<0xEE>(one, other);
                }
            }
            for col in 0..4 {
                let (one, other) = (fours[col], fours[col + 4]);
                _mm256_storeu_ps(to.add(col * to_stride), _mm256_permute2f128_ps::<0x20>(one, other));
                _mm256_storeu_ps(to.add((col + 4) * to_stride), _mm256_permute2f128_ps::<0x31>(one, other));
            }
        }
    }
}

/// AVX-512: thirty-two registers, twice as long.
pub(super) struct Avx512;

impl Instructions for Avx512 {
    sums!(__m512, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps);
    float32!("avx512f", __m512, 16, 12, _mm512_set1_ps, _mm512_loadu_ps, _mm512_fmadd_ps);
}

impl Float32 for Avx512 {
    #[inline(always)]
    unsafe fn transpose(to: *mut f32, to_stride: usize, from: *const f32, from_stride: usize) {
        // SAFETY: the caller's.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (row, values) in rows.iter_mut().enumerate() {
                *values = _mm512_loadu_ps(from.add(row * from_stride));
            }
            for (col, values) in transposed(rows).into_iter().enumerate() {
                _mm512_storeu_ps(to.add(col * to_stride), values);
            }
        }
    }
}

/// The transpose of 16 x 16 numbers: pairs of rows, then fours, within each quarter of a register; then the quarters.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
pub(crate) unsafe fn transposed(rows: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: the caller's.
    unsafe {
        let mut pairs = rows;
        for index in (0..16).step_by(2) {
            pairs[index] = _mm512_unpacklo_ps(rows[index], rows[index + 1]);
            pairs[index + 1] = _mm512_unpackhi_ps(rows[index], rows[index + 1]);
        }
        // `fours[4 g + c]` has the columns c, c + 4, c + 8 and c + 12 of the rows 4 g to 4 g + 3.
        let mut fours = pairs;
        for group in (0..16).step_by(4) {
            for half in 0..2 {
                let (one, other) = (pairs[group + half], pairs[group + half + 2]);
                fours[group + 2 * half] = _mm512_shuffle_ps::<0x44>(one, other);
                fours[group + 2 * half + 1] = _mm512_shuffle_ps::<0xEE>(one, other);
            }
        }
        let mut out = fours;
        for col in 0..4 {
            let [a, b, c, d] = [fours[col], fours[col + 4], fours[col + 8], fours[col + 12]];
            // Quarters 0 and 2, and 1 and 3, of two groups of rows each.
            let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xDD>(c, d));
            out[col] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
            out[col + 4] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
            out[col + 8] = _mm512_shuffle_f32x4::<0xDD>(ab_even, cd_even);
            out[col + 12] = _mm512_shuffle_f32x4::<0xDD>(ab_odd, cd_odd);
        }
        out
    }
}
