//! The seam between a pass and the arithmetic of its products.

use super::bf16;
use super::product::{self, Into, Matrix, MatrixMut};
use crate::config::Precision;

/// How the products of linear layers and of the head are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Products {
    /// In float32.
    Float32,
    /// Of factors rounded to bfloat16. Every kernel gives the same bits.
    Bf16(bf16::Kernel),
}

impl Products {
    /// In this precision, as fast as this processor can.
    pub(crate) fn new(precision: Precision) -> Products {
        match precision {
            Precision::Float32 => Products::Float32,
            Precision::Bf16 => Products::Bf16(bf16::Kernel::fastest()),
        }
    }

    /// `out = lhs · rhs`, or `out += lhs · rhs`, on all threads of the current pool.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub(crate) fn product(self, out: MatrixMut<'_>, into: Into, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        match self {
            Products::Float32 => product::product(out, into, lhs, rhs),
            Products::Bf16(kernel) => bf16::product(kernel, out, into, lhs, rhs),
        }
    }
}
