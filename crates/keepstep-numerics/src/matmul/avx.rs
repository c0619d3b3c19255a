//! x86-64's vector instructions: AVX2 with FMA, and AVX-512.

use super::simd::{Simd, SimdF32};
use super::simd_impl::{float32, sums, transposition};
use std::arch::x86_64::{
    __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_shuffle_ps, _mm512_storeu_ps, _mm512_unpackhi_ps, _mm512_unpacklo_ps,
};

/// AVX2 and FMA: sixteen registers of eight numbers, tiles of 6 x 16.
pub(crate) struct Avx2;

impl Simd for Avx2 {
    sums!(__m256, _mm256_setzero_ps(), _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps);
    float32!("avx2,fma", __m256, 8 lanes, 6 rows, 96 x 256 blocks, _mm256_set1_ps, _mm256_loadu_ps, _mm256_fmadd_ps);
}

impl SimdF32 for Avx2 {
    transposition!(__m256, 8 lanes, _mm256_loadu_ps, _mm256_storeu_ps, transposed_8);
}

/// Transposes 8 x 8 numbers: pairs of rows, then fours, within each half of a register; then the halves.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn transposed_8(rows: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller guarantees AVX2.
    unsafe {
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
        let mut out = fours;
        for col in 0..4 {
            let (one, other) = (fours[col], fours[col + 4]);
            out[col] = _mm256_permute2f128_ps::<0x20>(one, other);
            out[col + 4] = _mm256_permute2f128_ps::<0x31>(one, other);
        }
        out
    }
}

/// AVX-512: thirty-two registers of sixteen numbers, tiles of 12 x 32.
pub(crate) struct Avx512;

impl Simd for Avx512 {
    sums!(__m512, _mm512_setzero_ps(), _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps);
    float32!("avx512f", __m512, 16 lanes, 12 rows, 96 x 512 blocks, _mm512_set1_ps, _mm512_loadu_ps, _mm512_fmadd_ps);
}

impl SimdF32 for Avx512 {
    transposition!(__m512, 16 lanes, _mm512_loadu_ps, _mm512_storeu_ps, transposed_16);
}

/// Transposes 16 x 16 numbers: pairs of rows, then fours, within each quarter of a register; then the quarters.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
pub(crate) unsafe fn transposed_16(rows: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: the caller guarantees AVX-512.
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
