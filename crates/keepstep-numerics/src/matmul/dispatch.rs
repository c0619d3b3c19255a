//! The seam between a pass and the arithmetic of its products.

use crate::bf16;
use crate::matmul::packed::Packing;
use crate::matmul::{self, Into, Matrix, MatrixMut, Part};
use crate::precision::Precision;

/// How the products of linear layers and of the head are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// In float32.
    Float32,
    /// Of factors rounded to bfloat16. Every kernel gives the same bits.
    Bf16(bf16::Kernel),
}

impl Products {
    /// In this precision, as fast as this processor can.
    pub fn new(precision: Precision) -> Products {
        match precision {
            Precision::Float32 => Products::Float32,
            Precision::Bf16 => Products::Bf16(bf16::Kernel::fastest()),
        }
    }

    /// `out = lhs · rhs`, and so on, on all threads of the current pool.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[inline]
    pub fn product(self, out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        match self {
            Products::Float32 => matmul::product(out, into, lhs, rhs),
            Products::Bf16(kernel) => bf16::product(kernel, out, into, lhs, rhs),
        }
    }

    /// The same on this thread alone.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[inline]
    pub fn serial_product(self, out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        match self {
            Products::Float32 => matmul::serial_product(out, into, lhs, rhs),
            Products::Bf16(kernel) => bf16::serial_product(kernel, out, into, lhs, rhs),
        }
    }

    /// How right sides are packed that many products share; none where packing them is of no use.
    #[inline]
    pub fn packing(self) -> Option<Packing> {
        match self {
            Products::Float32 => Packing::of_processor(),
            Products::Bf16(kernel) => bf16::packing(kernel),
        }
    }

    /// A part of a product, on this thread.
    #[inline]
    pub fn compute(self, part: Part<'_>) {
        match self {
            Products::Float32 => part.compute(),
            Products::Bf16(kernel) => bf16::compute(kernel, part),
        }
    }
}
