//! NEON, the vector instructions of every 64-bit ARM processor.

use super::simd::{Simd, SimdF32};
use super::simd_impl::{float32, sums, transposition};
use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vdupq_n_f32, vfmaq_f32, vld1q_f32, vreinterpretq_f32_f64, vreinterpretq_f64_f32,
    vst1q_f32, vtrn1q_f32, vtrn1q_f64, vtrn2q_f32, vtrn2q_f64,
};

/// NEON: thirty-two registers of four numbers, tiles of 12 x 8.
pub(crate) struct Neon;

impl Simd for Neon {
    sums!(float32x4_t, vdupq_n_f32(0.0), vld1q_f32, vst1q_f32, vaddq_f32);
    float32!("neon", float32x4_t, 4 lanes, 12 rows, 96 x 256 blocks, vdupq_n_f32, vld1q_f32, fused);
}

impl SimdF32 for Neon {
    transposition!(float32x4_t, 4 lanes, vld1q_f32, vst1q_f32, transposed_4);
}

/// `left * right + sum`, rounded once. The intrinsic takes the sum first.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn fused(left: float32x4_t, right: float32x4_t, sum: float32x4_t) -> float32x4_t {
    // SAFETY: the caller guarantees NEON.
    unsafe { vfmaq_f32(sum, left, right) }
}

/// Transposes 4 x 4 numbers: pairs of rows, then the halves of registers.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn transposed_4([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: the caller guarantees NEON.
    unsafe {
        let even = |one, other| vreinterpretq_f64_f32(vtrn1q_f32(one, other));
        let odd = |one, other| vreinterpretq_f64_f32(vtrn2q_f32(one, other));
        let (ab_even, ab_odd) = (even(a, b), odd(a, b));
        let (cd_even, cd_odd) = (even(c, d), odd(c, d));
        [
            vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even)),
            vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd)),
            vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even)),
            vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd)),
        ]
    }
}
