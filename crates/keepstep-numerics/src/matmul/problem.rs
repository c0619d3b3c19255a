//! A matmul down to pointers: what kernels are given.

use super::matrix::{Accumulate, Matrix, MatrixMut};
use super::packed::PackedRhs;
use super::panels::Panels;
use super::triangle::Triangle;

/// `out = lhs · rhs`, or a rectangle of it, or a range of its inner dimension.
///
/// # Invariants
/// The matrices' shapes fit. `out` points to `rows` rows of `cols` numbers, `out_stride` apart. They were borrowed
/// mutably for `'a`, so they stay valid. Rectangles that run at the same time are disjoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Problem<'a> {
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) lhs: Matrix<'a>,
    pub(crate) rhs: Matrix<'a>,
    /// The right side again, if it is packed.
    pub(crate) packed: Option<PackedRhs<'a>>,
    /// What need not be computed. Only a whole matmul has one.
    pub(crate) triangle: Triangle,
}

// SAFETY: `out` is the only pointer, and problems on different threads write to disjoint rectangles.
unsafe impl Send for Problem<'_> {}
// SAFETY: a shared reference gives read access to the fields only. Writing needs an unsafe call, which states the
// promise.
unsafe impl Sync for Problem<'_> {}

impl<'a> Problem<'a> {
    /// A whole matmul.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub(crate) fn new(out: MatrixMut<'a>, lhs: Matrix<'a>, rhs: Matrix<'a>) -> Problem<'a> {
        assert_eq!((out.rows, out.cols), (lhs.rows, rhs.cols), "the result's shape");
        assert_eq!(lhs.cols, rhs.rows, "the inner dimension");
        let MatrixMut { start: out, rows, cols, row_stride: out_stride, .. } = out;
        Problem { out, out_stride, rows, cols, lhs, rhs, packed: None, triangle: Triangle::None }
    }

    /// A matmul for each panel of the right side, with its first column. Their results are disjoint.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub(crate) fn by_panels(
        out: MatrixMut<'a>,
        lhs: Matrix<'a>,
        rhs: Panels<'a>,
    ) -> impl Iterator<Item = (usize, Problem<'a>)> {
        assert_eq!((out.rows, out.cols), (lhs.rows, rhs.cols()), "the result's shape");
        assert_eq!(lhs.cols, rhs.rows(), "the inner dimension");
        let MatrixMut { start: out, rows, row_stride, .. } = out;
        rhs.iter().map(move |(start, panel)| {
            let out = out.wrapping_add(start);
            let (out_stride, cols, triangle) = (row_stride, panel.cols, Triangle::None);
            (start, Problem { out, out_stride, rows, cols, lhs, rhs: panel, packed: None, triangle })
        })
    }

    /// The rows from `start` to `end`.
    pub(crate) fn row_range(mut self, start: usize, end: usize) -> Problem<'a> {
        self.out = self.out.wrapping_add(start * self.out_stride);
        self.lhs.data = &self.lhs.data[start * self.lhs.row_stride..];
        self.lhs.rows = end - start;
        self.rows = end - start;
        self
    }

    /// The columns from `start` to `end`.
    pub(crate) fn col_range(mut self, start: usize, end: usize) -> Problem<'a> {
        self.out = self.out.wrapping_add(start);
        self.rhs.data = &self.rhs.data[start * self.rhs.col_stride..];
        self.rhs.cols = end - start;
        self.packed = None;
        self.cols = end - start;
        self
    }

    /// The part of the inner dimension from `start` to `end`.
    fn inner_range(mut self, start: usize, end: usize) -> Problem<'a> {
        if (start, end) != (0, self.lhs.cols) {
            self.triangle = Triangle::None;
        }
        self.lhs.data = &self.lhs.data[start * self.lhs.col_stride..];
        self.rhs.data = &self.rhs.data[start * self.rhs.row_stride..];
        self.lhs.cols = end - start;
        self.rhs.rows = end - start;
        self.packed = self.packed.map(|packed| packed.at_inner(start));
        self
    }

    /// Calls `compute` with slices of at most `len` of the inner dimension, in ascending order. The first slice treats
    /// the result as `accumulate` tells; the others add to it.
    ///
    /// # Safety
    /// Nothing else accesses the result during the call.
    pub(crate) unsafe fn for_each_slice(
        self,
        len: usize,
        accumulate: Accumulate<'_>,
        compute: impl Fn(&Problem<'_>, Accumulate<'_>),
    ) {
        let inner = self.lhs.cols;
        if inner == 0 {
            // SAFETY: the caller guarantees that nothing else accesses the result.
            unsafe { self.initialize(accumulate) };
        }
        for start in (0..inner).step_by(len) {
            let slice = self.inner_range(start, inner.min(start + len));
            if slice.rows > 0 && slice.cols > 0 {
                compute(&slice, if start == 0 { accumulate } else { Accumulate::Add });
            }
        }
    }

    /// Writes what the result holds before the first slice is added.
    ///
    /// # Safety
    /// Nothing else accesses the result during the call.
    pub(crate) unsafe fn initialize(&self, accumulate: Accumulate<'_>) {
        for row in 0..self.rows {
            // SAFETY: the caller guarantees that nothing else accesses the result.
            let out = unsafe { self.out_row(row) };
            match accumulate {
                Accumulate::Replace => out.fill(0.0),
                Accumulate::Bias(bias) => out.copy_from_slice(&bias[..self.cols]),
                Accumulate::Add => {}
            }
        }
    }

    /// One row of the result.
    ///
    /// # Safety
    /// Nothing else accesses the row while the slice lives.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the caller guarantees that the row has one user")]
    pub(crate) unsafe fn out_row(&self, row: usize) -> &mut [f32] {
        debug_assert!(row < self.rows);
        // SAFETY: the result has this row, by the type's invariants. The caller guarantees that nothing else accesses
        // it.
        unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride), self.cols) }
    }
}
