//! Matrices that a product reads and writes.

/// A matrix that is read.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

/// A matrix that is written: rows lie `row_stride` apart, columns one.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major.
    #[inline]
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Matrix<'a> {
        Matrix::strided(data, rows, cols, cols)
    }

    /// Row-major with rows `row_stride` apart.
    ///
    /// # Panics
    /// If the matrix reaches beyond the data.
    #[inline]
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Matrix<'a> {
        check(data.len(), rows, cols, row_stride);
        Matrix { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Its number of rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The transpose; nothing moves.
    #[must_use]
    #[inline]
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
    /// Row-major.
    #[inline]
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> MatrixMut<'a> {
        MatrixMut::strided(data, rows, cols, cols)
    }

    /// Row-major with rows `row_stride` apart.
    ///
    /// # Panics
    /// If the matrix reaches beyond the data.
    #[inline]
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> MatrixMut<'a> {
        check(data.len(), rows, cols, row_stride);
        MatrixMut { data, rows, cols, row_stride }
    }
}

#[inline]
fn check(len: usize, rows: usize, cols: usize, row_stride: usize) {
    let needed = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols };
    assert!(cols <= row_stride || rows <= 1, "rows overlap");
    assert!(needed <= len, "a matrix of {rows} x {cols} reaches beyond its data");
}

/// What a product does with what is in the result already.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Into<'a> {
    /// Replaces it.
    Replace,
    /// Adds to it.
    Add,
    /// Replaces it by this row, of the result's width, plus the product.
    Bias(&'a [f32]),
}

impl<'a> Into<'a> {
    /// The same for the columns from `col` on.
    #[inline(always)]
    pub(crate) fn from(self, col: usize) -> Into<'a> {
        match self {
            Into::Bias(bias) => Into::Bias(&bias[col..]),
            other => other,
        }
    }

    /// Writes sums to a part of a row of the result.
    #[inline(always)]
    pub(crate) fn store(self, out: &mut [f32], sums: &[f32]) {
        match self {
            Into::Replace => out.copy_from_slice(&sums[..out.len()]),
            Into::Add => {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out += sum;
                }
            }
            Into::Bias(bias) => {
                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                    *out = bias + sum;
                }
            }
        }
    }
}
