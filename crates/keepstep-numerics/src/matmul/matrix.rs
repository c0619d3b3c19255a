//! Views of the matrices that a matmul reads and writes.

use std::marker::PhantomData;

/// A matrix to read: a view of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

/// A matrix to write: rows lie `row_stride` apart, the numbers of a row next to each other.
///
/// # Invariants
/// `start` points to `rows` rows of `cols` numbers. They are borrowed mutably for `'a`, and nothing else leads to them.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    pub(crate) start: *mut f32,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: by the type's invariants, only the matrix leads to its numbers, like a mutable slice.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> Matrix<'a> {
    /// Views a slice as a contiguous row-major matrix.
    ///
    /// # Panics
    /// If the matrix reaches beyond the data.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Matrix<'a> {
        Matrix::strided(data, rows, cols, cols)
    }

    /// Views a slice as a row-major matrix whose rows lie `row_stride` apart.
    ///
    /// # Panics
    /// If the matrix reaches beyond the data, or rows overlap.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Matrix<'a> {
        check(data.len(), rows, cols, row_stride);
        Matrix { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the transpose. Nothing moves in memory.
    #[must_use]
    pub fn transposed(self) -> Matrix<'a> {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> MatrixMut<'a> {
    /// Views a mutable slice as a contiguous row-major matrix.
    ///
    /// # Panics
    /// If the matrix reaches beyond the data.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> MatrixMut<'a> {
        MatrixMut::strided(data, rows, cols, cols)
    }

    /// Views a mutable slice as a row-major matrix whose rows lie `row_stride` apart.
    ///
    /// # Panics
    /// If the matrix reaches beyond the data, or rows overlap.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> MatrixMut<'a> {
        check(data.len(), rows, cols, row_stride);
        MatrixMut { start: data.as_mut_ptr(), rows, cols, row_stride, borrow: PhantomData }
    }

    /// Views some columns of rows that lie `row_stride` apart. Others may use the columns between them.
    ///
    /// # Safety
    /// `start` points to `rows` rows of `cols` numbers, which are borrowed mutably for `'a`, and nothing else accesses
    /// them. Rows do not overlap.
    pub unsafe fn from_raw_parts(
        start: *mut f32,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> MatrixMut<'a> {
        MatrixMut { start, rows, cols, row_stride, borrow: PhantomData }
    }
}

fn check(len: usize, rows: usize, cols: usize, row_stride: usize) {
    let needed = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols };
    assert!(cols <= row_stride || rows <= 1, "rows overlap");
    assert!(needed <= len, "a matrix of {rows} x {cols} reaches beyond its data");
}

/// The treatment of the values that the result of a matmul already holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Accumulate<'a> {
    /// Overwrites them: `out = lhs · rhs`.
    Replace,
    /// Adds to them: `out += lhs · rhs`.
    Add,
    /// Overwrites them, and adds this row to each row: `out = bias + lhs · rhs`.
    Bias(&'a [f32]),
}

impl<'a> Accumulate<'a> {
    /// Returns the same treatment for the columns from `col` on.
    #[inline(always)]
    pub(crate) fn at_col(self, col: usize) -> Accumulate<'a> {
        match self {
            Accumulate::Bias(bias) => Accumulate::Bias(&bias[col..]),
            other => other,
        }
    }

    /// Writes sums to a part of a row of the result.
    #[inline(always)]
    pub(crate) fn store(self, out: &mut [f32], sums: &[f32]) {
        match self {
            Accumulate::Replace => out.copy_from_slice(&sums[..out.len()]),
            Accumulate::Add => {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out += sum;
                }
            }
            Accumulate::Bias(bias) => {
                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                    *out = bias + sum;
                }
            }
        }
    }
}
