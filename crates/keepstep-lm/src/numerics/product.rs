//! Matrix products whose every bit is defined.
//!
//! An element of the result is, for each slice of at most 512 of the inner dimension, a chain of fused multiply-adds in
//! ascending order that begins at 0; the slices are added in ascending order. It does not matter which kernel computes
//! it, on how many threads, or with which vectors. The `gemm` crate's kernels do exactly that, except in a few paths for
//! small shapes, which are kept out of (see `Path`).

use crate::numerics::vectorized::vectorized;
use gemm_common::Parallelism;
use rayon::prelude::*;

/// The crate cuts the inner dimension by cache sizes, but never below this, so that slices of this length are not cut.
const SLICE: usize = 512;

/// Fewer multiply-adds than this are not worth a second thread.
const SERIAL: usize = 1 << 16;

/// A matrix that is read.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A matrix that is written: rows lie `row_stride` apart, columns one.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Matrix<'a> {
        Matrix::strided(data, rows, cols, cols)
    }

    /// Row-major with rows `row_stride` apart.
    ///
    /// # Panics
    /// If the matrix reaches beyond the data.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Matrix<'a> {
        check(data.len(), rows, cols, row_stride);
        Matrix { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose; nothing moves.
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
    /// Row-major.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> MatrixMut<'a> {
        MatrixMut::strided(data, rows, cols, cols)
    }

    /// Row-major with rows `row_stride` apart.
    ///
    /// # Panics
    /// If the matrix reaches beyond the data.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> MatrixMut<'a> {
        check(data.len(), rows, cols, row_stride);
        MatrixMut { data, rows, cols, row_stride }
    }
}

fn check(len: usize, rows: usize, cols: usize, row_stride: usize) {
    let needed = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols };
    assert!(cols <= row_stride || rows <= 1, "rows overlap");
    assert!(needed <= len, "a matrix of {rows} x {cols} reaches beyond its data");
}

/// What a product does with what is in the result already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// Replaces it.
    Replace,
    /// Adds to it.
    Add,
}

/// `out = lhs · rhs`, or `out += lhs · rhs`, on all threads of the current pool.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(out: MatrixMut<'_>, into: Into, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let threads = rayon::current_num_threads();
    if threads == 1 || lhs.rows * lhs.cols * rhs.cols < SERIAL {
        return serial_product(out, into, lhs, rhs);
    }
    let task = Task::new(out, lhs, rhs);
    // Each thread computes a part of the result: no element's sum is shared.
    let by_rows = task.rows >= task.cols;
    let len = if by_rows { task.rows } else { task.cols };
    let part = len.div_ceil(threads).next_multiple_of(if by_rows { 8 } else { 16 });
    (0..len.div_ceil(part)).into_par_iter().for_each(|index| {
        let (start, end) = (index * part, len.min((index + 1) * part));
        let sub = if by_rows { task.row_range(start, end) } else { task.col_range(start, end) };
        // SAFETY: the parts are disjoint, and `out` is borrowed mutably until all are done.
        unsafe { sub.run(into) };
    });
}

/// The same on this thread alone.
///
/// # Panics
/// If the shapes do not fit.
pub fn serial_product(out: MatrixMut<'_>, into: Into, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let task = Task::new(out, lhs, rhs);
    // SAFETY: `out` is borrowed mutably until it is done.
    unsafe { task.run(into) };
}

/// A product, or a part of one.
#[derive(Clone, Copy)]
struct Task<'a> {
    out: *mut f32,
    out_stride: usize,
    rows: usize,
    cols: usize,
    lhs: Matrix<'a>,
    rhs: Matrix<'a>,
}

// SAFETY: tasks that run at the same time write to disjoint parts.
unsafe impl Send for Task<'_> {}
// SAFETY: as above.
unsafe impl Sync for Task<'_> {}

/// Which code computes a product.
enum Path {
    /// Nothing to add up.
    Empty,
    /// Our own loops: one row or column, an inner dimension of 1 or 2, and small products of rows by rows. There the
    /// crate sums across the lanes of a vector, or rounds twice.
    Own,
    /// The crate.
    Gemm,
}

impl<'a> Task<'a> {
    fn new(out: MatrixMut<'_>, lhs: Matrix<'a>, rhs: Matrix<'a>) -> Task<'a> {
        assert_eq!((out.rows, out.cols), (lhs.rows, rhs.cols), "the result's shape");
        assert_eq!(lhs.cols, rhs.rows, "the inner dimension");
        let MatrixMut { data, rows, cols, row_stride } = out;
        Task { out: data.as_mut_ptr(), out_stride: row_stride, rows, cols, lhs, rhs }
    }

    fn row_range(mut self, start: usize, end: usize) -> Task<'a> {
        self.out = self.out.wrapping_add(start * self.out_stride);
        self.lhs.data = &self.lhs.data[start * self.lhs.row_stride..];
        self.lhs.rows = end - start;
        self.rows = end - start;
        self
    }

    fn col_range(mut self, start: usize, end: usize) -> Task<'a> {
        self.out = self.out.wrapping_add(start);
        self.rhs.data = &self.rhs.data[start * self.rhs.col_stride..];
        self.rhs.cols = end - start;
        self.cols = end - start;
        self
    }

    fn inner_range(mut self, start: usize, end: usize) -> Task<'a> {
        self.lhs.data = &self.lhs.data[start * self.lhs.col_stride..];
        self.rhs.data = &self.rhs.data[start * self.rhs.row_stride..];
        self.lhs.cols = end - start;
        self.rhs.rows = end - start;
        self
    }

    fn path(&self) -> Path {
        let (rows, cols, inner) = (self.rows, self.cols, self.lhs.cols);
        let by_rows = self.lhs.col_stride == 1 && self.rhs.row_stride == 1;
        if rows == 0 || cols == 0 || inner == 0 {
            Path::Empty
        } else if rows == 1 || cols == 1 || inner <= 2 || (by_rows && rows * cols <= 256) || lacks_fma() {
            Path::Own
        } else {
            Path::Gemm
        }
    }

    /// # Safety
    /// Nothing else touches the result's elements meanwhile.
    unsafe fn run(self, into: Into) {
        let inner = self.lhs.cols;
        if inner == 0 && into == Into::Replace {
            for row in 0..self.rows {
                // SAFETY: the elements are the result's.
                unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride), self.cols) }
                    .fill(0.0);
            }
        }
        for start in (0..inner).step_by(SLICE) {
            let slice = self.inner_range(start, inner.min(start + SLICE));
            let into = if start == 0 { into } else { Into::Add };
            match slice.path() {
                Path::Empty => {}
                // SAFETY: handed on.
                Path::Own => unsafe { slice.own(into) },
                // SAFETY: handed on.
                Path::Gemm => unsafe { slice.gemm(into) },
            }
        }
    }

    /// # Safety
    /// As [`Task::run`].
    unsafe fn own(&self, into: Into) {
        for row in 0..self.rows {
            // SAFETY: the row is the result's, and nothing else touches it.
            let out =
                unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride), self.cols) };
            let lhs = &self.lhs.data[row * self.lhs.row_stride..];
            let add = into == Into::Add;
            if self.rhs.col_stride == 1 {
                row_by_matrix(
                    out,
                    add,
                    lhs,
                    self.lhs.col_stride,
                    self.rhs.data,
                    self.rhs.row_stride,
                    self.rhs.rows,
                );
            } else {
                row_by_rows(out, add, lhs, self.lhs.col_stride, self.rhs);
            }
        }
    }

    /// # Safety
    /// As [`Task::run`].
    unsafe fn gemm(&self, into: Into) {
        let kernel = gemm_f32::gemm::f32::get_gemm_fn();
        let stride = |stride: usize| stride as isize;
        // The crate's kernels run down columns: the transposed product makes the result's rows its columns.
        // SAFETY: the matrices lie within their data, as their constructors and the ranges have checked.
        unsafe {
            kernel(
                self.cols,
                self.rows,
                self.lhs.cols,
                self.out,
                stride(self.out_stride),
                1,
                into == Into::Add,
                self.rhs.data.as_ptr(),
                stride(self.rhs.row_stride),
                stride(self.rhs.col_stride),
                self.lhs.data.as_ptr(),
                stride(self.lhs.row_stride),
                stride(self.lhs.col_stride),
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// Whether the crate would round twice where the definition rounds once. Slow, but the same bits.
fn lacks_fma() -> bool {
    cfg!(target_arch = "x86_64") && !crate::numerics::vectorized::is_fast()
}

/// Columns that are computed side by side.
const WIDTH: usize = 32;

vectorized! {
    /// One row of a result whose right side lies in rows.
    fn row_by_matrix(
        out: &mut [f32], add: bool, lhs: &[f32], lhs_stride: usize, rhs: &[f32], rhs_stride: usize, inner: usize,
    ) {
        for (block, out) in out.chunks_mut(WIDTH).enumerate() {
            let width = out.len();
            let mut sums = [0.0_f32; WIDTH];
            for k in 0..inner {
                let left = lhs[k * lhs_stride];
                let start = k * rhs_stride + block * WIDTH;
                let right = &rhs[start..start + width];
                if width == WIDTH {
                    for lane in 0..WIDTH {
                        sums[lane] = left.mul_add(right[lane], sums[lane]);
                    }
                } else {
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = left.mul_add(*right, *sum);
                    }
                }
            }
            store(out, add, &sums);
        }
    }
}

vectorized! {
    /// One row of a result whose right side lies in columns: several chains at a time.
    fn row_by_rows(out: &mut [f32], add: bool, lhs: &[f32], lhs_stride: usize, rhs: Matrix<'_>) {
        const CHAINS: usize = 8;
        for (block, out) in out.chunks_mut(CHAINS).enumerate() {
            let mut sums = [0.0_f32; CHAINS];
            let mut starts = [0; CHAINS];
            for (chain, start) in starts.iter_mut().enumerate() {
                *start = (block * CHAINS + chain.min(out.len() - 1)) * rhs.col_stride;
            }
            for k in 0..rhs.rows {
                let left = lhs[k * lhs_stride];
                for chain in 0..CHAINS {
                    sums[chain] = left.mul_add(rhs.data[starts[chain] + k * rhs.row_stride], sums[chain]);
                }
            }
            store(out, add, &sums);
        }
    }
}

#[inline(always)]
fn store(out: &mut [f32], add: bool, sums: &[f32]) {
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = if add { *out + sum } else { *sum };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, word for word.
    fn defined(out: &mut [f32], stride: usize, into: Into, lhs: Matrix<'_>, rhs: Matrix<'_>) {
        for row in 0..lhs.rows {
            for col in 0..rhs.cols {
                let mut total = if into == Into::Add { Some(out[row * stride + col]) } else { None };
                for start in (0..lhs.cols).step_by(SLICE) {
                    let mut sum = 0.0_f32;
                    for k in start..lhs.cols.min(start + SLICE) {
                        let left = lhs.data[row * lhs.row_stride + k * lhs.col_stride];
                        let right = rhs.data[k * rhs.row_stride + col * rhs.col_stride];
                        sum = left.mul_add(right, sum);
                    }
                    total = Some(total.map_or(sum, |total| total + sum));
                }
                out[row * stride + col] = total.unwrap_or(0.0);
            }
        }
    }

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                (state as f32 / u32::MAX as f32 - 0.5) * 4.0
            })
            .collect()
    }

    fn check(rows: usize, cols: usize, inner: usize) {
        let pad = 3;
        let matrix = |data, rows, cols, transposed: bool| {
            if transposed {
                Matrix::strided(data, cols, rows, rows + pad).transposed()
            } else {
                Matrix::strided(data, rows, cols, cols + pad)
            }
        };
        let left = numbers((rows + pad) * (inner + pad), 1);
        let right = numbers((cols + pad) * (inner + pad), 2);
        let before = numbers(rows * (cols + pad), 3);
        for layout in 0..4 {
            let lhs = matrix(&left, rows, inner, layout & 1 == 1);
            let rhs = matrix(&right, inner, cols, layout & 2 == 2);
            for into in [Into::Replace, Into::Add] {
                let mut expected = before.clone();
                defined(&mut expected, cols + pad, into, lhs, rhs);
                let run = |parallel: bool| {
                    let mut out = before.clone();
                    let target = MatrixMut::strided(&mut out, rows, cols, cols + pad);
                    if parallel {
                        product(target, into, lhs, rhs)
                    } else {
                        serial_product(target, into, lhs, rhs)
                    }
                    out
                };
                for parallel in [false, true] {
                    let found = run(parallel);
                    let same =
                        found.iter().zip(&expected).all(|(one, other)| one.to_bits() == other.to_bits());
                    assert!(
                        same,
                        "{rows} x {inner} x {cols}, layout {layout}, {into:?}, parallel {parallel}"
                    );
                }
            }
        }
    }

    /// Every layout, edge shapes, one row or column, no multiple of a vector, and slices of the inner dimension.
    #[test]
    fn every_element_is_the_defined_chain() {
        // An emulated processor takes minutes where this one takes a second: there, a part of the shapes.
        let emulated = crate::numerics::is_emulated();
        let edges: &[usize] =
            if emulated { &[1, 2, 9, 16, 33] } else { &[0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 65] };
        for &rows in edges {
            for &cols in edges {
                for inner in [0, 1, 2, 3, 8, 17, 64] {
                    check(rows, cols, inner);
                }
            }
        }
        for inner in if emulated { &[512, 513, 1025][..] } else { &[511, 512, 513, 1024, 1025, 1700] } {
            let inner = *inner;
            for (rows, cols) in [(1, 1), (1, 50), (50, 1), (2, 3), (16, 16), (17, 40), (70, 130)] {
                if emulated && rows * cols > 700 {
                    continue;
                }
                check(rows, cols, inner);
            }
        }
    }

    #[test]
    fn on_any_number_of_threads() {
        for threads in if crate::numerics::is_emulated() { 3..4 } else { 1..5 } {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                for (rows, cols, inner) in [(100, 70, 600), (5, 300, 700), (300, 5, 90), (129, 129, 33)] {
                    check(rows, cols, inner);
                }
            });
        }
    }
}
