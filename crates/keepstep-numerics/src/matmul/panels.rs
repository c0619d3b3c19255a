//! A matrix in panels: the order in which decoding reads memory fastest.
//!
//! A panel holds all rows of some columns, one row after the other. Who computes those columns reads the panel from its
//! start to its end. Panels take as much memory as the matrix, so it can be arranged in place.

use super::backend::Backend;
use super::matrix::Matrix;
use rayon::prelude::*;

/// Columns of a square that is transposed at a time: a cache line of them.
const SQUARE: usize = 16;

/// Registers that hold a row's sums of one panel, the best number first. The kernel lists them.
const REGISTERS: [usize; 3] = [12, 6, 3];

/// Returns the best width for panels of a matrix with this many columns that are computed in `parts` parts.
pub fn panel_width(cols: usize, parts: usize) -> usize {
    let lanes = Backend::detect().lanes();
    let widths = REGISTERS.map(|registers| registers * lanes);
    widths.into_iter().find(|width| width * parts <= cols).unwrap_or(widths[REGISTERS.len() - 1])
}

/// A matrix whose columns lie in panels of `width` columns each, the last of them perhaps fewer.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    width: usize,
}

impl<'a> Panels<'a> {
    /// Views a slice that holds `rows * cols` numbers in panels.
    ///
    /// # Panics
    /// If the slice has another length, or `width` is 0.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, width: usize) -> Panels<'a> {
        assert_eq!(data.len(), rows * cols, "the numbers of a matrix");
        assert!(width > 0, "columns in a panel");
        Panels { data, rows, cols, width }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Copies one column, `[rows]`.
    ///
    /// # Panics
    /// If there is no such column, or `out` is shorter than a column.
    pub fn copy_column(&self, out: &mut [f32], col: usize) {
        assert!(col < self.cols, "a column");
        let (start, panel) = self.panel(col / self.width);
        for (row, out) in out[..self.rows].iter_mut().enumerate() {
            *out = panel.data[row * panel.cols + col - start];
        }
    }

    /// The panels in order, each with its first column.
    pub(super) fn iter(self) -> impl ExactSizeIterator<Item = (usize, Matrix<'a>)> {
        (0..self.cols.div_ceil(self.width)).map(move |index| self.panel(index))
    }

    fn panel(&self, index: usize) -> (usize, Matrix<'a>) {
        let start = index * self.width;
        let cols = self.width.min(self.cols - start);
        (start, Matrix::new(&self.data[start * self.rows..][..self.rows * cols], self.rows, cols))
    }
}

/// Arranges a contiguous row-major matrix of `rows` rows in panels of `width` columns, on all threads of the current
/// pool.
///
/// # Panics
/// If `width` is 0.
pub fn arrange_in_panels(data: &mut [f32], rows: usize, width: usize) {
    if data.is_empty() {
        return;
    }
    let (whole, cols) = (data.to_vec(), data.len() / rows);
    data.par_chunks_mut(rows * width).enumerate().for_each(|(index, panel)| {
        let width_here = panel.len() / rows;
        for (to, from) in panel.chunks_exact_mut(width_here).zip(whole.chunks_exact(cols)) {
            to.copy_from_slice(&from[index * width..][..width_here]);
        }
    });
}

/// Arranges a matrix of `rows` rows whose columns are contiguous, one after the other, in panels of `width` columns, on
/// all threads of the current pool.
///
/// # Panics
/// If `width` is 0.
pub fn arrange_columns_in_panels(data: &mut [f32], rows: usize, width: usize) {
    if data.is_empty() {
        return;
    }
    data.par_chunks_mut(rows * width).for_each_init(Vec::new, |columns, panel| {
        columns.clear();
        columns.extend_from_slice(panel);
        let width = panel.len() / rows;
        for (index, panel) in panel.chunks_mut(SQUARE * width).enumerate() {
            for (col, column) in columns.chunks_exact(rows).enumerate() {
                for (row, value) in column[index * SQUARE..].iter().take(SQUARE).enumerate() {
                    panel[row * width + col] = *value;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each number is found at its row and column, whichever order it came from.
    #[test]
    fn panels_hold_the_matrix() {
        for (rows, cols, width) in
            [(5, 7, 3), (40, 70, 16), (1, 9, 4), (33, 1, 2), (3, 4, 9), (0, 4, 1), (4, 0, 1)]
        {
            let by_rows: Vec<f32> = (0..rows * cols).map(|index| index as f32).collect();
            let by_columns: Vec<f32> =
                (0..rows * cols).map(|index| by_rows[index % rows * cols + index / rows]).collect();
            let (mut one, mut other) = (by_rows.clone(), by_columns);
            arrange_in_panels(&mut one, rows, width);
            arrange_columns_in_panels(&mut other, rows, width);
            assert_eq!(one, other, "{rows} x {cols}, {width}");
            let panels = Panels::new(&one, rows, cols, width);
            let mut column = vec![0.0; rows];
            for col in 0..cols {
                panels.copy_column(&mut column, col);
                let expected: Vec<f32> = (0..rows).map(|row| by_rows[row * cols + col]).collect();
                assert_eq!(column, expected, "{rows} x {cols}, {width}, column {col}");
            }
        }
    }
}
