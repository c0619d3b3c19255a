//! Products by the `gemm` crate, whose kernels are those of other architectures too.

use super::{Into, Task};
use gemm_common::Parallelism;

/// Whether the crate would sum across the lanes of a vector, or round twice: with one column, an inner dimension of 1 or
/// 2, and in small products of rows by rows.
pub(super) fn sums_otherwise(task: &Task<'_>) -> bool {
    let by_rows = task.lhs.col_stride == 1 && task.rhs.row_stride == 1;
    task.cols == 1 || task.lhs.cols <= 2 || (by_rows && task.rows * task.cols <= 256)
}

/// One slice of the inner dimension.
///
/// # Safety
/// As [`Task::run`].
pub(super) unsafe fn run(task: &Task<'_>, into: Into<'_>) {
    let into = match into {
        Into::Bias(_) => {
            // SAFETY: handed on.
            unsafe { task.begin(into) };
            Into::Add
        }
        other => other,
    };
    let kernel = gemm_f32::gemm::f32::get_gemm_fn();
    let stride = |stride: usize| stride as isize;
    // The crate's kernels run down columns: the transposed product makes the result's rows its columns.
    // SAFETY: the matrices lie within their data, as their constructors and the ranges have checked.
    unsafe {
        kernel(
            task.cols,
            task.rows,
            task.lhs.cols,
            task.out,
            stride(task.out_stride),
            1,
            into == Into::Add,
            task.rhs.data.as_ptr(),
            stride(task.rhs.row_stride),
            stride(task.rhs.col_stride),
            task.lhs.data.as_ptr(),
            stride(task.lhs.row_stride),
            stride(task.lhs.col_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
