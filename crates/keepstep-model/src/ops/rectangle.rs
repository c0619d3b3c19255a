//! Rectangles of a matrix, for tasks that write different columns of the same rows.

use keepstep_numerics::matmul::MatrixMut;
use std::marker::PhantomData;
use std::ops::Range;

/// A rectangle of a row-major matrix, to read and to write.
///
/// # Invariants
/// `start` points to `rows` rows of `cols` elements, `stride` elements apart. They belong to a slice that is borrowed
/// mutably for `'a`, and to no other rectangle.
#[derive(Debug)]
pub(crate) struct Rectangle<'a, T> {
    start: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: by the type's invariants, only the rectangle leads to its elements, like a mutable slice.
unsafe impl<T: Send> Send for Rectangle<'_, T> {}

impl<'a, T> Rectangle<'a, T> {
    /// Divides a matrix whose rows have `stride` elements into rectangles of `height` rows and `width` columns: the
    /// first columns from top to bottom, then the next. The lowest rectangles may have fewer rows.
    ///
    /// # Panics
    /// If `width` does not divide `stride`, or the last row is incomplete.
    pub(crate) fn divide(
        values: &'a mut [T],
        stride: usize,
        height: usize,
        width: usize,
    ) -> Vec<Rectangle<'a, T>> {
        assert!(stride.is_multiple_of(width) && values.len().is_multiple_of(stride), "whole rectangles");
        let all_rows = values.len() / stride;
        let start = values.as_mut_ptr();
        let at = |col: usize, row: usize| Rectangle {
            start: start.wrapping_add(row * stride + col),
            rows: height.min(all_rows - row),
            cols: width,
            stride,
            borrow: PhantomData,
        };
        let cols = (0..stride).step_by(width);
        cols.flat_map(|col| (0..all_rows).step_by(height).map(move |row| (col, row)))
            .map(|(col, row)| at(col, row))
            .collect()
    }

    /// Returns one row.
    ///
    /// # Panics
    /// If the rectangle has fewer rows.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "a row of the rectangle");
        // SAFETY: by the type's invariants, these elements are valid, and only `self`, which is borrowed mutably, leads
        // to them.
        unsafe { std::slice::from_raw_parts_mut(self.start.wrapping_add(row * self.stride), self.cols) }
    }
}

impl Rectangle<'_, f32> {
    /// Returns some rows as the result of a matmul.
    ///
    /// # Panics
    /// If the rectangle has fewer rows.
    pub(crate) fn rows_mut(&mut self, rows: Range<usize>) -> MatrixMut<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows of the rectangle");
        let start = self.start.wrapping_add(rows.start * self.stride);
        // SAFETY: by the type's invariants, these elements are valid and rows do not overlap. Only `self`, which is
        // borrowed mutably, leads to them.
        unsafe { MatrixMut::from_raw_parts(start, rows.len(), self.cols, self.stride) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_in_one_rectangle() {
        for (rows, height) in [(1, 1), (5, 2), (6, 2), (6, 6), (3, 7)] {
            let (stride, width) = (12, 4);
            let mut values = vec![0; rows * stride];
            let mut all = Rectangle::divide(&mut values, stride, height, width);
            std::thread::scope(|scope| {
                for (index, rectangle) in all.iter_mut().enumerate() {
                    scope.spawn(move || {
                        for row in 0..rectangle.rows {
                            rectangle.row_mut(row).iter_mut().for_each(|value| *value += index + 1);
                        }
                    });
                }
            });
            let tall = rows.div_ceil(height);
            for (place, value) in values.iter().enumerate() {
                let (row, col) = (place / stride, place % stride);
                assert_eq!(*value, col / width * tall + row / height + 1, "row {row}, column {col}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a row of the rectangle")]
    fn a_row_below_is_refused() {
        let mut values = [0; 12];
        Rectangle::divide(&mut values, 4, 2, 2)[1].row_mut(1);
    }

    #[test]
    #[should_panic(expected = "rows of the rectangle")]
    fn a_matrix_that_reaches_below_is_refused() {
        let mut values = [0.0; 12];
        Rectangle::divide(&mut values, 4, 2, 2)[1].rows_mut(0..2);
    }
}
