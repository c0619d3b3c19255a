//! Matrix products of bfloat16 numbers, summed in float32, whose every bit is defined.
//!
//! The definition is the instruction VDPBF16PS (Intel's Software Developer's Manual, volume 2, "VDPBF16PS" and
//! "VCVTNEPS2BF16"), laid over a whole product:
//!
//! - Both matrices are rounded to bfloat16, to nearest even; denormal numbers become zeros of their sign, a NaN stays one.
//! - The inner dimension is cut into slices of 256, and each slice into pairs; the last pair's missing member is zero.
//! - An element of a slice's result begins at +0 and does for each pair, in ascending order, first the second member and
//!   then the first: `sum = sum + left · right`, rounded once to nearest even; a result that is tiny after rounding becomes
//!   a zero of its sign (x86 detects tininess after rounding). The control register MXCSR has no say.
//! - The slices' results are added in ascending order, in plain float32.
//!
//! Which NaN comes out of NaNs is not defined, only that one does. It does not matter which kernel computes an element, on
//! how many threads, or in which blocks.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod convert;
mod definition;
mod portable;
mod support;
#[cfg(test)]
mod tests;

pub use support::{Kernel, Support};

use crate::matmul::packed::Packing;
use crate::matmul::{self, Into, Matrix, MatrixMut, Part, Task};

/// Numbers of the inner dimension that are summed by themselves. Part of the definition.
const SLICE: usize = 256;

/// `out = lhs · rhs`, `out += lhs · rhs` or `out = bias + lhs · rhs`, with both rounded to bfloat16, on all threads of the
/// current pool.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(kernel: Kernel, out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    matmul::share_out(out, into, lhs, rhs, |part| compute(kernel, part));
}

/// The same on this thread alone.
///
/// # Panics
/// If the shapes do not fit.
pub fn serial_product(kernel: Kernel, out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    compute(kernel, Part::whole(out, into, lhs, rhs));
}

/// A part of a product, on this thread.
pub(super) fn compute(kernel: Kernel, part: Part<'_>) {
    let (task, into) = part.into_task();
    // SAFETY: the part's target is its own.
    unsafe { task.for_each_slice(SLICE, into, |slice, into| compute_slice(kernel, slice, into)) };
}

/// How right sides are packed that many products share.
pub(super) fn packing(kernel: Kernel) -> Option<Packing> {
    match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512 => Some(Packing::of::<avx512::Avx512Bf16>()),
        _ => None,
    }
}

/// # Safety
/// Nothing else touches the target meanwhile.
unsafe fn compute_slice(kernel: Kernel, slice: &Task<'_>, into: Into<'_>) {
    match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512 => {
            assert!(avx512::is_present(), "a processor with AVX512-BF16");
            // SAFETY: handed on; the processor has the instructions.
            unsafe { matmul::kernel::run::<avx512::Avx512Bf16>(slice, into) };
        }
        // SAFETY: handed on.
        _ => unsafe { portable::run(slice, into) },
    }
}
