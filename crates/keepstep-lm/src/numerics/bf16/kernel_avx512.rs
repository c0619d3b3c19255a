//! The definition by the instruction that it is taken from.

use super::SLICE;
use super::kernel::{Kernel, LhsLayout, MAX_COLS, MAX_ROWS, Tile};
use super::pack_avx512::{across, along, transposed};
use crate::numerics::product::Matrix;
use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_cvtss_f32, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

/// Tiles of 12 x 32: twenty-four registers of sums, two of the right panel and one of the left.
///
/// Its tiles may be computed only where [`Support::of_this_processor`](super::Support::of_this_processor) has found the
/// instruction; without it they panic.
pub(super) struct Avx512;

const ROWS: usize = MAX_ROWS;
const COLS: usize = MAX_COLS;
/// Columns of one register.
const LANES: usize = 16;

impl Kernel for Avx512 {
    type Element = u16;
    const ROWS: usize = ROWS;
    const COLS: usize = COLS;

    fn pack_lhs(
        panel: &mut [u16],
        layout: LhsLayout,
        lhs: &Matrix<'_>,
        row: usize,
        rows: usize,
        start: usize,
        len: usize,
    ) -> u32 {
        assert!(is_present(), "a processor with AVX512-BF16");
        let src = &lhs.data[row * lhs.row_stride + start * lhs.col_stride..];
        // SAFETY: the processor has the instructions.
        unsafe {
            match layout {
                LhsLayout::Columns => across::<ROWS>(panel, src, lhs.col_stride, rows, len),
                LhsLayout::Rows => along(panel, src, lhs.row_stride, rows, ROWS, len),
                LhsLayout::Single if lhs.col_stride == 1 => along(panel, src, lhs.row_stride, 1, 1, len),
                LhsLayout::Single => across::<1>(panel, src, lhs.col_stride, 1, len),
            }
        }
        0
    }

    fn pack_rhs(
        panel: &mut [u16],
        rhs: &Matrix<'_>,
        col: usize,
        cols: usize,
        start: usize,
        len: usize,
    ) -> u32 {
        assert!(is_present(), "a processor with AVX512-BF16");
        let src = &rhs.data[start * rhs.row_stride + col * rhs.col_stride..];
        // SAFETY: the processor has the instructions.
        unsafe {
            if rhs.col_stride == 1 {
                across::<COLS>(panel, src, rhs.row_stride, cols, len);
            } else {
                transposed::<COLS>(panel, src, rhs.col_stride, cols, len);
            }
        }
        0
    }

    fn tile(tile: &mut Tile, layout: LhsLayout, pairs: usize, lhs: (&[u16], u32), rhs: (&[u16], u32)) {
        assert!(is_present(), "a processor with AVX512-BF16");
        // Pairs as the instruction reads them; the scratch that panels lie in is aligned for them.
        let (lhs, rhs): (&[u32], &[u32]) = (bytemuck::cast_slice(lhs.0), bytemuck::cast_slice(rhs.0));
        // SAFETY: the processor has the instructions.
        unsafe {
            match layout {
                LhsLayout::Rows => sums::<ROWS, { SLICE / 2 }, 1>(tile, pairs, lhs, rhs),
                LhsLayout::Columns => sums::<ROWS, 1, ROWS>(tile, pairs, lhs, rhs),
                LhsLayout::Single => sums::<1, 0, 1>(tile, pairs, lhs, rhs),
            }
        }
    }
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

/// The sums of one tile. The left panel's row `row` has its pair `pair` at `row * LHS_ROW + pair * LHS_PAIR`.
#[target_feature(enable = "avx512f,avx512bf16")]
fn sums<const ROWS: usize, const LHS_ROW: usize, const LHS_PAIR: usize>(
    tile: &mut Tile,
    pairs: usize,
    lhs: &[u32],
    rhs: &[u32],
) {
    assert!(pairs > 0 && (ROWS - 1) * LHS_ROW + (pairs - 1) * LHS_PAIR < lhs.len(), "a whole left panel");
    assert!(pairs * COLS <= rhs.len(), "a whole right panel");
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for pair in 0..pairs {
        // SAFETY: below `pairs * COLS`.
        let right = unsafe {
            let start = rhs.as_ptr().add(pair * COLS);
            [bf16(_mm512_loadu_si512(start.cast())), bf16(_mm512_loadu_si512(start.add(LANES).cast()))]
        };
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: within the panel, as asserted.
            let left = unsafe { *lhs.get_unchecked(row * LHS_ROW + pair * LHS_PAIR) };
            let left = bf16(_mm512_set1_epi32(left as i32));
            sums[0] = _mm512_dpbf16_ps(sums[0], left, right[0]);
            sums[1] = _mm512_dpbf16_ps(sums[1], left, right[1]);
        }
    }
    for (row, sums) in tile.iter_mut().zip(&sums) {
        // SAFETY: a row has thirty-two elements.
        unsafe {
            _mm512_storeu_ps(row.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(row.as_mut_ptr().add(LANES), sums[1]);
        }
    }
}

/// The same bits, as thirty-two bfloat16 numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and every pattern of them is a value of both.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}
