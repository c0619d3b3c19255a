//! A single row by a panel: the sums stay in registers, and memory is read from start to end.

use super::{Left, Right};
use crate::matmul::aligned::LINE;
use crate::matmul::prefetch::prefetch;
use crate::matmul::simd::SimdF32;

/// How far ahead numbers are asked for: processors foresee memory within a page only.
const AHEAD: usize = 512;

/// Adds to the sums of a panel's columns, if there is one row, and the panel has as many columns as some registers.
/// Returns false, and does nothing, otherwise.
///
/// # Safety
/// The processor has the set. Both sides are as their types tell, and there is a sum for each column.
#[inline(always)]
pub(super) unsafe fn add<S: SimdF32>(sums: &mut [f32], lhs: Left<'_>, rhs: Right<'_>) -> bool {
    if lhs.rows != 1 || rhs.stride != rhs.cols || !rhs.cols.is_multiple_of(S::LANES) {
        return false;
    }
    // SAFETY: the panel has the registers' columns. The caller guarantees the rest.
    unsafe {
        match rhs.cols / S::LANES {
            12 => add_registers::<S, 12>(sums, lhs, rhs),
            6 => add_registers::<S, 6>(sums, lhs, rhs),
            3 => add_registers::<S, 3>(sums, lhs, rhs),
            _ => return false,
        }
    }
    true
}

/// # Safety
/// The contract of [`add`]; and the panel has the columns of `REGISTERS` registers.
#[inline(always)]
unsafe fn add_registers<S: SimdF32, const REGISTERS: usize>(sums: &mut [f32], lhs: Left<'_>, rhs: Right<'_>) {
    let cols = REGISTERS * S::LANES;
    // SAFETY: the left side has `inner` numbers, the right side as many rows of `cols` numbers, and the sums have `cols`.
    // The caller guarantees the instructions.
    unsafe {
        let mut all = [S::zero(); REGISTERS];
        for (register, sum) in all.iter_mut().enumerate() {
            *sum = S::load(sums.as_ptr().add(register * S::LANES));
        }
        // Not with the slices' iterators: the compiler would keep the sums in memory.
        for k in 0..lhs.inner {
            let left = S::splat(*lhs.data.as_ptr().add(k));
            let right = rhs.data.as_ptr().add(k * cols);
            for col in (0..cols).step_by(LINE) {
                prefetch(right.wrapping_add(AHEAD + col));
            }
            for (register, sum) in all.iter_mut().enumerate() {
                *sum = S::multiply_add(left, S::load_factors(right.add(register * S::LANES)), *sum);
            }
        }
        for (register, sum) in all.into_iter().enumerate() {
            S::store(sums.as_mut_ptr().add(register * S::LANES), sum);
        }
    }
}
