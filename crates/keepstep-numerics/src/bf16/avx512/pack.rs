//! Rounds a part of a matrix to pairs of bfloat16 numbers with the instruction VCVTNE2PS2BF16, which rounds as
//! [`convert`](crate::bf16::convert) does.

use crate::bf16::definition::SLICE;
use crate::matmul::avx::transposed_16;
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh,
    _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16,
    _mm512_setzero_ps, _mm512_storeu_si512,
};

/// Float32 numbers in a register.
const LANES: usize = 16;

/// Which words of a register make pairs, one number from the lower half and one from the upper.
const INTERLEAVED: [u16; 2 * LANES] = {
    let mut words = [0; 2 * LANES];
    let mut lane = 0;
    while lane < LANES {
        words[2 * lane] = lane as u16;
        words[2 * lane + 1] = (lane + LANES) as u16;
        lane += 1;
    }
    words
};

/// Packs `len` contiguous rows, `width` numbers of each. Two rows make a row of pairs, padded to `STRIDE` pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn across<const STRIDE: usize>(
    panel: &mut [u32],
    src: &[f32],
    src_stride: usize,
    width: usize,
    len: usize,
) {
    let pairs = len.div_ceil(2);
    assert!(width <= STRIDE && pairs * STRIDE <= panel.len(), "a whole panel");
    assert!(len == 0 || (len - 1) * src_stride + width <= src.len(), "rows of the matrix");
    // SAFETY: the masks limit every access to numbers that the assertions above found in both slices.
    unsafe {
        let interleaved = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
        for first in (0..STRIDE).step_by(LANES) {
            let (read, write) = (mask(width.saturating_sub(first)), mask(STRIDE - first));
            let mut from = src.as_ptr().wrapping_add(first);
            let mut to = panel.as_mut_ptr().cast::<i32>().add(first);
            for _ in 0..len / 2 {
                let one = _mm512_maskz_loadu_ps(read, from);
                let other = _mm512_maskz_loadu_ps(read, from.wrapping_add(src_stride));
                let pairs = _mm512_permutexvar_epi16(interleaved, rounded(one, other));
                _mm512_mask_storeu_epi32(to, write, pairs);
                from = from.wrapping_add(2 * src_stride);
                to = to.wrapping_add(STRIDE);
            }
            if len % 2 == 1 {
                let one = _mm512_maskz_loadu_ps(read, from);
                let pairs = _mm512_permutexvar_epi16(interleaved, rounded(one, _mm512_setzero_ps()));
                _mm512_mask_storeu_epi32(to, write, pairs);
            }
        }
    }
}

/// Packs `width` contiguous columns of `len` numbers. Two rows make a row of pairs, padded to `STRIDE` pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn transposed<const STRIDE: usize>(
    panel: &mut [u32],
    src: &[f32],
    src_stride: usize,
    width: usize,
    len: usize,
) {
    assert!(width <= STRIDE && STRIDE.is_multiple_of(LANES), "whole registers");
    assert!(len.div_ceil(2) * STRIDE <= panel.len(), "a whole panel");
    assert!(width == 0 || (width - 1) * src_stride + len <= src.len(), "columns of the matrix");
    for first in (0..STRIDE).step_by(LANES) {
        for start in (0..len).step_by(2 * LANES) {
            let count = len - start;
            // SAFETY: the masks limit reads to numbers of the matrix, and writes cover whole rows of the panel: both
            // lie in their slices, as asserted.
            unsafe {
                let mut columns = [_mm512_setzero_ps(); LANES];
                for (index, column) in columns.iter_mut().enumerate().take(width.saturating_sub(first)) {
                    let from = src.as_ptr().wrapping_add((first + index) * src_stride + start);
                    *column = _mm512_castsi512_ps(pairs(from, count));
                }
                let to = panel.as_mut_ptr().cast::<i32>().add(start / 2 * STRIDE + first);
                for (pair, values) in transposed_16(columns).into_iter().enumerate().take(count.div_ceil(2)) {
                    _mm512_storeu_si512(to.add(pair * STRIDE).cast(), _mm512_castps_si512(values));
                }
            }
        }
    }
}

/// Packs `rows` contiguous rows of `len` numbers, row by row. In the panel they lie a slice's length apart.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn along(panel: &mut [u32], src: &[f32], src_stride: usize, rows: usize, len: usize) {
    assert!(rows * SLICE / 2 <= panel.len() && len <= SLICE, "room for the rows");
    assert!(rows == 0 || (rows - 1) * src_stride + len <= src.len(), "rows of the matrix");
    for row in 0..rows {
        for start in (0..len).step_by(2 * LANES) {
            let count = len - start;
            // SAFETY: the masks limit reads to numbers of the matrix and writes to one row of the panel: both lie in
            // their slices, as asserted.
            unsafe {
                let values = pairs(src.as_ptr().wrapping_add(row * src_stride + start), count);
                let to = panel.as_mut_ptr().add((row * SLICE + start) / 2).cast();
                _mm512_mask_storeu_epi32(to, mask(count.div_ceil(2)), values);
            }
        }
    }
}

/// Loads `count` contiguous numbers, at most thirty-two, as sixteen pairs. Missing numbers are zero.
///
/// # Safety
/// The numbers can be read: `count` of them, or thirty-two if `count` is more.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs(from: *const f32, count: usize) -> __m512i {
    // SAFETY: the masks limit the loads to `count` numbers, which the caller guarantees.
    unsafe {
        let one = _mm512_maskz_loadu_ps(mask(count), from);
        let other = _mm512_maskz_loadu_ps(mask(count.saturating_sub(LANES)), from.wrapping_add(LANES));
        rounded(one, other)
    }
}

/// Rounds both registers. The first one's numbers are in the lower half of the result.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn rounded(one: __m512, other: __m512) -> __m512i {
    // SAFETY: both types have 64 bytes, and every pattern of bits is a value of both.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(other, one)) }
}

/// A mask of the first `count` lanes.
#[inline]
fn mask(count: usize) -> __mmask16 {
    if count >= LANES { __mmask16::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    use super::super::is_present;
    use super::*;
    use crate::bf16::convert::to_bf16;

    /// Every exponent and sign with significands around the rounding boundary, and random numbers.
    #[test]
    fn the_instruction_rounds_as_is_defined() {
        if !is_present() {
            println!("AVX512-BF16: this processor lacks it, its rounding was NOT tried");
            return;
        }
        let mut state = 1_u32;
        let mut values = Vec::new();
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
                values.push(f32::from_bits(u32::from(high) << 16 | low));
            }
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            values.push(f32::from_bits(state));
        }
        for values in values.chunks(SLICE) {
            let mut panel = [0_u32; SLICE / 2];
            // SAFETY: the processor has the instructions, as checked above.
            unsafe { along(&mut panel, values, values.len(), 1, values.len()) };
            for (index, value) in values.iter().enumerate() {
                let found = (panel[index / 2] >> (16 * (index % 2))) as u16;
                assert_eq!(found, to_bf16(*value), "{:08x}", value.to_bits());
            }
        }
    }
}
