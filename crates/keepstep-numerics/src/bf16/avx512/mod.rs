//! The definition by the instruction that it is taken from, in the kernel of float32's products.

mod pack;

use super::SLICE;
use crate::matmul::kernel::{self, Tile};
use crate::matmul::simd::{Instructions, sums};
use crate::matmul::{Into, Matrix};
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtss_f32, _mm512_dpbf16_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

/// AVX512-BF16: a factor is a pair of bfloat16 numbers.
///
/// To be used only where [`Support::of_this_processor`](super::Support::of_this_processor) has found the instruction.
pub(super) struct Avx512Bf16;

impl Instructions for Avx512Bf16 {
    sums!(__m512, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps);

    /// The first number in the lower half.
    type Factor = u32;
    type Factors = __m512i;
    const SLICE: usize = SLICE;
    const STEP: usize = 2;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;
    const READS_ROWS: bool = false;

    #[inline(always)]
    unsafe fn splat(factor: u32) -> __m512i {
        // SAFETY: the caller's.
        unsafe { _mm512_set1_epi32(factor as i32) }
    }

    #[inline(always)]
    unsafe fn load_factors(from: *const u32) -> __m512i {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply_add(left: __m512i, right: __m512i, sum: __m512) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_dpbf16_ps(sum, bf16(left), bf16(right)) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn compute<const ROWS: usize, const IS_PACKED: bool>(tile: Tile<Self>, into: Into<'_>) {
        // SAFETY: handed on.
        unsafe { kernel::compute::<Self, ROWS, IS_PACKED>(tile, into) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_right(out: *mut u32, rhs: &Matrix<'_>, col: usize, cols: usize) {
        let steps = rhs.rows.div_ceil(2);
        for first in (0..cols).step_by(Self::TILE_COLS) {
            let width = Self::TILE_COLS.min(cols - first);
            // SAFETY: there is room for the panel.
            let panel = unsafe { numbers(out.add(first * steps), Self::TILE_COLS * steps) };
            let src = &rhs.data[(col + first) * rhs.col_stride..];
            if rhs.col_stride == 1 {
                pack::across::<{ Self::TILE_COLS }>(panel, src, rhs.row_stride, width, rhs.rows);
            } else {
                pack::transposed::<{ Self::TILE_COLS }>(panel, src, rhs.col_stride, width, rhs.rows);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_left(out: *mut u32, lhs: &Matrix<'_>, row: usize, rows: usize) {
        let steps = lhs.cols.div_ceil(2);
        for first in (0..rows).step_by(Self::TILE_ROWS) {
            let height = Self::TILE_ROWS.min(rows - first);
            // SAFETY: there is room for the panel.
            let panel = unsafe { numbers(out.add(first * steps), Self::TILE_ROWS * steps) };
            let src = &lhs.data[row + first..];
            pack::across::<{ Self::TILE_ROWS }>(panel, src, lhs.col_stride, height, lhs.cols);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_rows(out: *mut u32, lhs: &Matrix<'_>, row: usize, rows: usize) {
        // SAFETY: there is room for the rows.
        let panel = unsafe { numbers(out, rows * SLICE / 2) };
        pack::along(panel, &lhs.data[row * lhs.row_stride..], lhs.row_stride, rows, lhs.cols);
    }
}

/// The numbers of some factors.
///
/// # Safety
/// There are so many factors, and nobody else has them.
unsafe fn numbers<'a>(factors: *mut u32, count: usize) -> &'a mut [u16] {
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts_mut(factors.cast(), 2 * count) }
}

/// Whether the processor and the system have what the kernel needs.
pub(super) fn is_present() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512bf16")
}

/// One pair's products added to a sum, by the instruction.
pub(super) fn pair(sum: f32, left: [u16; 2], right: [u16; 2]) -> f32 {
    assert!(is_present(), "a processor with AVX512-BF16");
    let bits = |[first, second]: [u16; 2]| (u32::from(first) | u32::from(second) << 16) as i32;
    // SAFETY: the processor has the instructions.
    unsafe { one_pair(sum, bits(left), bits(right)) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn one_pair(sum: f32, left: i32, right: i32) -> f32 {
    let (left, right) = (bf16(_mm512_set1_epi32(left)), bf16(_mm512_set1_epi32(right)));
    _mm512_cvtss_f32(_mm512_dpbf16_ps(_mm512_set1_ps(sum), left, right))
}

/// The same bits, as thirty-two bfloat16 numbers.
#[inline(always)]
fn bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and every pattern of them is a value of both.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}
