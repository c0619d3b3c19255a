//! The `gemm` crate, which tests compare our kernels with.

use super::matrix::Accumulate;
use super::problem::Problem;
use gemm_common::Parallelism;

/// Reports whether the crate sums across the lanes of a vector, or rounds twice. It does so with one column, with an
/// inner dimension of 1 or 2, and in small matmuls of contiguous rows and contiguous columns.
pub(super) fn sums_otherwise(problem: &Problem<'_>) -> bool {
    let both_contiguous = problem.lhs.col_stride == 1 && problem.rhs.row_stride == 1;
    problem.cols == 1 || problem.lhs.cols <= 2 || (both_contiguous && problem.rows * problem.cols <= 256)
}

/// One slice of the inner dimension.
///
/// # Safety
/// Nothing else accesses the result during the call.
pub(super) unsafe fn run(slice: &Problem<'_>, accumulate: Accumulate<'_>) {
    let accumulate = match accumulate {
        Accumulate::Bias(_) => {
            // SAFETY: the caller guarantees that nothing else accesses the result.
            unsafe { slice.initialize(accumulate) };
            Accumulate::Add
        }
        other => other,
    };
    let kernel = gemm_f32::gemm::f32::get_gemm_fn();
    let stride = |stride: usize| stride as isize;
    // The crate's kernels run down columns, so it computes the transposed matmul: the result's rows become its columns.
    // SAFETY: the matrices lie within their data, which constructors and ranges have checked; the caller guarantees
    // that nothing else accesses the result.
    unsafe {
        kernel(
            slice.cols,
            slice.rows,
            slice.lhs.cols,
            slice.out,
            stride(slice.out_stride),
            1,
            accumulate == Accumulate::Add,
            slice.rhs.data.as_ptr(),
            stride(slice.rhs.row_stride),
            stride(slice.rhs.col_stride),
            slice.lhs.data.as_ptr(),
            stride(slice.lhs.row_stride),
            stride(slice.lhs.col_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
