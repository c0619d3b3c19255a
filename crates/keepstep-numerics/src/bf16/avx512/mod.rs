//! The definition, computed by the instruction VDPBF16PS in the same kernel as float32.

mod pack;

use super::definition::SLICE;
use crate::matmul::matrix::{Accumulate, Matrix};
use crate::matmul::simd::{Simd, Tile, left_panel_len};
use crate::matmul::simd_impl::sums;
use crate::matmul::tile;
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtss_f32, _mm512_dpbf16_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

/// AVX512-BF16. A factor is a pair of bfloat16 numbers.
pub(super) struct Avx512Bf16;

impl Simd for Avx512Bf16 {
    sums!(__m512, _mm512_setzero_ps(), _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps);

    /// The first number is in the lower half.
    type Factor = u32;
    type Factors = __m512i;
    const SLICE: usize = SLICE;
    const STEP: usize = 2;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;
    const CHUNK_ROWS: usize = 384;
    const BLOCK_ROWS: usize = 96;
    const PART: usize = 256;
    const READS_ROWS: bool = false;

    #[inline(always)]
    unsafe fn splat(factor: u32) -> __m512i {
        // SAFETY: the processor has the set, which every caller of the trait guarantees.
        unsafe { _mm512_set1_epi32(factor as i32) }
    }

    #[inline(always)]
    unsafe fn load_factors(from: *const u32) -> __m512i {
        // SAFETY: the processor has the set, and a register's factors can be read from the pointer on.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply_add(left: __m512i, right: __m512i, sum: __m512) -> __m512 {
        // SAFETY: the processor has the set, which every caller of the trait guarantees.
        unsafe { _mm512_dpbf16_ps(sum, as_bf16(left), as_bf16(right)) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn compute<const ROWS: usize, const IS_PACKED: bool>(
        tile: Tile<Self>,
        accumulate: Accumulate<'_>,
    ) {
        // SAFETY: the caller guarantees the promises of the tile's fields.
        unsafe { tile::compute::<Self, ROWS, IS_PACKED>(tile, accumulate) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_right(out: &mut [u32], rhs: &Matrix<'_>, col: usize, cols: usize) {
        let panel_len = Self::TILE_COLS * rhs.rows.div_ceil(2);
        for first in (0..cols).step_by(Self::TILE_COLS) {
            let width = Self::TILE_COLS.min(cols - first);
            let panel = &mut out[first / Self::TILE_COLS * panel_len..][..panel_len];
            let src = &rhs.data[(col + first) * rhs.col_stride..];
            if rhs.col_stride == 1 {
                pack::across::<{ Self::TILE_COLS }>(panel, src, rhs.row_stride, width, rhs.rows);
            } else {
                pack::transposed::<{ Self::TILE_COLS }>(panel, src, rhs.col_stride, width, rhs.rows);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_left(out: &mut [u32], lhs: &Matrix<'_>, row: usize, rows: usize) {
        let panel_len = left_panel_len::<Self>(lhs.cols.div_ceil(2));
        for first in (0..rows).step_by(Self::TILE_ROWS) {
            let height = Self::TILE_ROWS.min(rows - first);
            let panel = &mut out[first / Self::TILE_ROWS * panel_len..][..panel_len];
            let src = &lhs.data[row + first..];
            pack::across::<{ Self::TILE_ROWS }>(panel, src, lhs.col_stride, height, lhs.cols);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_rows(out: &mut [u32], lhs: &Matrix<'_>, row: usize, rows: usize) {
        pack::along(out, &lhs.data[row * lhs.row_stride..], lhs.row_stride, rows, lhs.cols);
    }
}

/// Reports whether the processor and the operating system support the kernel.
pub(super) fn is_present() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512bf16")
}

/// Adds one pair's products to a sum, by the instruction.
pub(super) fn pair(sum: f32, left: [u16; 2], right: [u16; 2]) -> f32 {
    assert!(is_present(), "a processor with AVX512-BF16");
    let bits = |[first, second]: [u16; 2]| (u32::from(first) | u32::from(second) << 16) as i32;
    // SAFETY: the processor has the instructions, as asserted.
    unsafe { one_pair(sum, bits(left), bits(right)) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn one_pair(sum: f32, left: i32, right: i32) -> f32 {
    let (left, right) = (as_bf16(_mm512_set1_epi32(left)), as_bf16(_mm512_set1_epi32(right)));
    _mm512_cvtss_f32(_mm512_dpbf16_ps(_mm512_set1_ps(sum), left, right))
}

/// Reinterprets a register as thirty-two bfloat16 numbers.
#[inline(always)]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both types have 64 bytes, and every pattern of bits is a value of both.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}
