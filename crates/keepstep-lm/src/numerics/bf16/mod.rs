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
mod avx2;
mod convert;
mod definition;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod kernel_avx512;
mod kernel_portable;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
mod product;
mod support;
#[cfg(test)]
mod tests;

pub use support::{Kernel, Support};

use crate::numerics::product::{Into, Matrix, MatrixMut, Part};
use product::Target;

/// Numbers of the inner dimension that are summed by themselves. Part of the definition.
const SLICE: usize = 256;

/// `out = lhs · rhs`, `out += lhs · rhs` or `out = bias + lhs · rhs`, with both rounded to bfloat16, on all threads of the
/// current pool.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(kernel: Kernel, out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    run(kernel, rayon::current_num_threads(), out, into, lhs, rhs);
}

/// The same on this thread alone.
///
/// # Panics
/// If the shapes do not fit.
pub fn serial_product(kernel: Kernel, out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    run(kernel, 1, out, into, lhs, rhs);
}

fn run(kernel: Kernel, threads: usize, out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    assert_eq!((out.rows, out.cols), (lhs.rows, rhs.cols), "the result's shape");
    assert_eq!(lhs.cols, rhs.rows, "the inner dimension");
    let target = Target { out: out.data.as_mut_ptr(), row_stride: out.row_stride };
    // SAFETY: the target is borrowed mutably until it is done, and is as large as its shape says.
    unsafe { to(kernel, threads, &target, into, lhs, rhs) };
}

/// A part of a product, on this thread.
pub(super) fn compute(kernel: Kernel, part: Part<'_>) {
    // SAFETY: the part's target is its own until it is done.
    unsafe {
        let (out, row_stride, into, lhs, rhs) = part.into_raw();
        to(kernel, 1, &Target { out, row_stride }, into, lhs, rhs);
    }
}

/// # Safety
/// The target has the product's rows and columns, and nothing else touches them meanwhile.
unsafe fn to(
    kernel: Kernel,
    threads: usize,
    target: &Target,
    into: Into<'_>,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    // SAFETY: handed on.
    unsafe {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => product::product::<kernel_avx512::Avx512>(threads, target, into, lhs, rhs),
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx512 => product::product::<kernel_portable::Portable>(threads, target, into, lhs, rhs),
            Kernel::Portable => {
                product::product::<kernel_portable::Portable>(threads, target, into, lhs, rhs);
            }
        }
    }
}
