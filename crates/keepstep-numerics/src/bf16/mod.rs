//! Matmuls of bfloat16 numbers with sums in float32, whose every bit is defined.
//!
//! # The definition
//! It applies the instruction VDPBF16PS to a whole matmul (Intel's Software Developer's Manual, volume 2, "VDPBF16PS"
//! and "VCVTNEPS2BF16"):
//!
//! - Both matrices are rounded to bfloat16, to nearest even. Denormal numbers become zeros of their sign; a NaN stays a NaN.
//! - The inner dimension is cut into slices of 256, and each slice into pairs. A missing second member is zero.
//! - Within a slice, an element begins at +0. For each pair, in ascending order, first the second member is added and then
//!   the first: `sum = sum + left · right`, rounded once to nearest even. A result that is tiny after rounding becomes
//!   a zero of its sign (x86 detects tininess after rounding). The control register MXCSR has no effect.
//! - The slices' sums are added in ascending order, in plain float32.
//!
//! If the inputs contain NaNs, an affected element is a NaN, but its bits are not defined. The kernel, the number of
//! threads and the size of tiles do not change an element.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod convert;
mod definition;
mod portable;
mod support;
#[cfg(test)]
mod tests;
#[cfg(any(test, target_arch = "x86_64"))]
mod trials;

pub use support::{Kernel, Support};

use crate::matmul::matrix::{Accumulate, Matrix, MatrixMut};
use crate::matmul::packed::Packing;
use crate::matmul::problem::Problem;
use crate::matmul::task::{MatmulTask, run_parallel};
use definition::SLICE;

/// Computes `out = lhs · rhs`, `out += lhs · rhs` or `out = bias + lhs · rhs` with both sides rounded to bfloat16, on
/// all threads of the current pool.
///
/// # Panics
/// If the shapes do not match.
pub fn matmul(
    kernel: Kernel,
    out: MatrixMut<'_>,
    accumulate: Accumulate<'_>,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    run_parallel(out, accumulate, lhs, rhs, |task| run(kernel, task));
}

/// Computes the same as [`matmul`], on this thread alone.
///
/// # Panics
/// If the shapes do not match.
pub fn serial_matmul(
    kernel: Kernel,
    out: MatrixMut<'_>,
    accumulate: Accumulate<'_>,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    run(kernel, MatmulTask::new(out, accumulate, lhs, rhs));
}

/// Computes one task on this thread.
pub(crate) fn run(kernel: Kernel, task: MatmulTask<'_>) {
    let (problem, accumulate) = task.into_problem();
    // SAFETY: tasks of a matmul write to disjoint parts of its result, which stays borrowed while any task exists.
    unsafe {
        problem.for_each_slice(SLICE, accumulate, |slice, accumulate| run_slice(kernel, slice, accumulate));
    }
}

/// Returns the packing for a right side that several tasks share, or `None` if packing would not help.
pub(crate) fn packing(kernel: Kernel) -> Option<Packing> {
    match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512 => {
            assert!(avx512::is_present(), "a processor with AVX512-BF16");
            // SAFETY: the processor has the instructions.
            Some(unsafe { Packing::from_simd::<avx512::Avx512Bf16>() })
        }
        _ => None,
    }
}

/// Computes one slice of the inner dimension.
///
/// # Safety
/// Nothing else accesses the result during the call.
unsafe fn run_slice(kernel: Kernel, slice: &Problem<'_>, accumulate: Accumulate<'_>) {
    match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512 => {
            assert!(avx512::is_present(), "a processor with AVX512-BF16");
            // SAFETY: the assertion checked the instructions. By this function's contract, nothing else accesses the
            // result.
            unsafe { crate::matmul::kernel::run::<avx512::Avx512Bf16>(slice, accumulate) };
        }
        // SAFETY: by this function's contract, nothing else accesses the result.
        _ => unsafe { portable::run(slice, accumulate) },
    }
}
