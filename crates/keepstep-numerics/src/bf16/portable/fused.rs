//! A tile by fused multiply-adds, for panels whose sums cannot be tiny.
//!
//! The left panel's row `row` has its number `k` at `row * LHS_ROW + k * LHS_K`.

use super::panel::{COLS, Tile};
#[cfg(target_arch = "x86_64")]
use crate::matmul::avx::Avx2;
#[cfg(target_arch = "aarch64")]
use crate::matmul::neon::Neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::matmul::simd::SimdF32;

/// Computes the sums of a tile with the vector instructions that this processor has.
pub(super) fn sums<const ROWS: usize, const LHS_ROW: usize, const LHS_K: usize>(
    tile: &mut Tile,
    pairs: usize,
    lhs: &[f32],
    rhs: &[f32],
) {
    #[cfg(target_arch = "x86_64")]
    if crate::vectorized::has_avx2_fma() {
        // SAFETY: the processor has AVX2 and FMA.
        return unsafe { avx2::<ROWS, LHS_ROW, LHS_K>(tile, pairs, lhs, rhs) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every 64-bit ARM processor has NEON.
    return unsafe { neon::<ROWS, LHS_ROW, LHS_K>(tile, pairs, lhs, rhs) };
    #[cfg(not(target_arch = "aarch64"))]
    super::plain::sums_by::<ROWS, LHS_ROW, LHS_K>(tile, pairs, lhs, rhs, |sum, left, right| {
        left.mul_add(right, sum)
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<const ROWS: usize, const LHS_ROW: usize, const LHS_K: usize>(
    tile: &mut Tile,
    pairs: usize,
    lhs: &[f32],
    rhs: &[f32],
) {
    // SAFETY: this function runs only where the processor has AVX2 and FMA.
    unsafe { sums_with::<Avx2, 2, ROWS, LHS_ROW, LHS_K>(tile, pairs, lhs, rhs) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon<const ROWS: usize, const LHS_ROW: usize, const LHS_K: usize>(
    tile: &mut Tile,
    pairs: usize,
    lhs: &[f32],
    rhs: &[f32],
) {
    // SAFETY: this function runs only where the processor has NEON.
    unsafe { sums_with::<Neon, 2, ROWS, LHS_ROW, LHS_K>(tile, pairs, lhs, rhs) }
}

/// Computes the sums with as many columns at a time as `REGISTERS` registers of a row hold. The more columns, the fewer
/// loads of the left panel; but all sums, and the factors, must stay in registers.
///
/// # Safety
/// The processor has the set.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn sums_with<
    S: SimdF32,
    const REGISTERS: usize,
    const ROWS: usize,
    const LHS_ROW: usize,
    const LHS_K: usize,
>(
    tile: &mut Tile,
    pairs: usize,
    lhs: &[f32],
    rhs: &[f32],
) {
    const { assert!(COLS.is_multiple_of(REGISTERS * S::LANES)) };
    assert!(pairs > 0 && (ROWS - 1) * LHS_ROW + (2 * pairs - 1) * LHS_K < lhs.len(), "a whole left panel");
    assert!(2 * pairs * COLS <= rhs.len(), "a whole right panel");
    for col in (0..COLS).step_by(REGISTERS * S::LANES) {
        // SAFETY: the left panel has `2 * pairs` numbers of each row and the right panel as many of each column, as
        // asserted. A row of the tile has `COLS` numbers. The caller guarantees the instructions.
        unsafe {
            let mut sums = [[S::zero(); REGISTERS]; ROWS];
            for pair in 0..pairs {
                for half in [1, 0] {
                    let k = 2 * pair + half;
                    let start = rhs.as_ptr().add(k * COLS + col);
                    let mut right = [S::load_factors(start); REGISTERS];
                    for (index, right) in right.iter_mut().enumerate().skip(1) {
                        *right = S::load_factors(start.add(index * S::LANES));
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let left = S::splat(*lhs.get_unchecked(row * LHS_ROW + k * LHS_K));
                        for (sum, right) in sums.iter_mut().zip(right) {
                            *sum = S::multiply_add(left, right, *sum);
                        }
                    }
                }
            }
            for (row, sums) in tile.iter_mut().zip(&sums) {
                for (index, sum) in sums.iter().enumerate() {
                    S::store(row.as_mut_ptr().add(col + index * S::LANES), *sum);
                }
            }
        }
    }
}
