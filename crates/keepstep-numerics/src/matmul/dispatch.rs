//! The precision and the kernel of a model's matmuls, chosen once.

use super::backend::Backend;
use super::matrix::{Accumulate, Matrix, MatrixMut};
use super::packed::Packing;
use super::task::{MatmulTask, matmul, serial_matmul};
use crate::bf16;
use crate::precision::Precision;

/// The kind of matmul for linear layers and the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulKind {
    /// Factors and sums in float32.
    Float32,
    /// Factors rounded to bfloat16, and sums in float32. Every kernel gives the same bits.
    Bf16(bf16::Kernel),
}

impl MatmulKind {
    /// Returns the fastest kind of this precision on this processor.
    pub fn detect(precision: Precision) -> MatmulKind {
        match precision {
            Precision::Float32 => MatmulKind::Float32,
            Precision::Bf16 => MatmulKind::Bf16(bf16::Kernel::detect()),
        }
    }

    /// Computes `out = lhs · rhs`, `out += lhs · rhs` or `out = bias + lhs · rhs`, on all threads of the current pool.
    ///
    /// # Panics
    /// If the shapes do not match.
    #[inline]
    pub fn matmul(self, out: MatrixMut<'_>, accumulate: Accumulate<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        match self {
            MatmulKind::Float32 => matmul(out, accumulate, lhs, rhs),
            MatmulKind::Bf16(kernel) => bf16::matmul(kernel, out, accumulate, lhs, rhs),
        }
    }

    /// Computes the same as [`matmul`](MatmulKind::matmul), on this thread alone.
    ///
    /// # Panics
    /// If the shapes do not match.
    #[inline]
    pub fn serial_matmul(
        self,
        out: MatrixMut<'_>,
        accumulate: Accumulate<'_>,
        lhs: Matrix<'_>,
        rhs: Matrix<'_>,
    ) {
        match self {
            MatmulKind::Float32 => serial_matmul(out, accumulate, lhs, rhs),
            MatmulKind::Bf16(kernel) => bf16::serial_matmul(kernel, out, accumulate, lhs, rhs),
        }
    }

    /// Returns the packing for a right side that several tasks share, or `None` if packing would not help.
    #[inline]
    pub fn packing(self) -> Option<Packing> {
        match self {
            MatmulKind::Float32 => Backend::detect().packing(),
            MatmulKind::Bf16(kernel) => bf16::packing(kernel),
        }
    }

    /// Computes one task on this thread.
    #[inline]
    pub fn run(self, task: MatmulTask<'_>) {
        match self {
            MatmulKind::Float32 => task.run(),
            MatmulKind::Bf16(kernel) => bf16::run(kernel, task),
        }
    }
}
