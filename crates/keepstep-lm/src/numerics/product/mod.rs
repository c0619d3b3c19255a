//! Matrix products whose every bit is defined.
//!
//! An element of the result is, for each slice of at most 512 of the inner dimension, a chain of fused multiply-adds in
//! ascending order that begins at 0; the slices are added in ascending order. It does not matter which kernel computes
//! it, on how many threads, or with which vectors. Our own kernel does that with AVX-512, or with AVX2 and FMA. On other
//! architectures the kernels of the `gemm` crate do, except in a few paths for small shapes, which are kept out of (see
//! `Path`).

#[cfg(target_arch = "x86_64")]
pub(super) mod instructions;
#[cfg(target_arch = "x86_64")]
pub(super) mod kernel;
pub(crate) mod lines;
mod loops;
#[cfg(target_arch = "x86_64")]
mod pack;
pub(crate) mod packed;
#[cfg(test)]
mod tests;

use gemm_common::Parallelism;
use packed::Packed;
use rayon::prelude::*;

/// The crate cuts the inner dimension by cache sizes, but never below this, so that slices of this length are not cut.
pub(super) const SLICE: usize = 512;

/// Fewer multiply-adds than this are not worth a second thread.
const SERIAL: usize = 1 << 16;

/// Parts are multiples of this many rows or columns: whole tiles of any kernel.
const PART_ROWS: usize = 12;
const PART_COLS: usize = 32;
/// Longer parts leave a thread waiting for another's last one.
const LONGEST_PART: usize = 384;

/// A matrix that is read.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// A matrix that is written: rows lie `row_stride` apart, columns one.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
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

    /// Its number of rows.
    pub fn rows(&self) -> usize {
        self.rows
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
    pub(super) fn from(self, col: usize) -> Into<'a> {
        match self {
            Into::Bias(bias) => Into::Bias(&bias[col..]),
            other => other,
        }
    }

    /// Writes sums to a part of a row of the result.
    #[inline(always)]
    pub(super) fn store(self, out: &mut [f32], sums: &[f32]) {
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

/// `out = lhs · rhs`, or `out += lhs · rhs`, on all threads of the current pool.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    share_out(out, into, lhs, rhs, Part::compute);
}

/// Gives a product to `compute` in parts, on all threads of the current pool.
///
/// # Panics
/// If the shapes do not fit.
pub(super) fn share_out<'a>(
    out: MatrixMut<'a>,
    into: Into<'a>,
    lhs: Matrix<'a>,
    rhs: Matrix<'a>,
    compute: impl Fn(Part<'a>) + Sync + Send,
) {
    if rayon::current_num_threads() == 1 || lhs.rows * lhs.cols * rhs.cols < SERIAL {
        return compute(Part::whole(out, into, lhs, rhs));
    }
    parts(out, into, lhs, rhs).into_par_iter().with_max_len(1).for_each(compute);
}

/// A part of a product's result, for a thread to compute.
#[derive(Debug)]
pub struct Part<'a> {
    task: Task<'a>,
    into: Into<'a>,
}

impl<'a> Part<'a> {
    /// All of a product.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn whole(out: MatrixMut<'a>, into: Into<'a>, lhs: Matrix<'a>, rhs: Matrix<'a>) -> Part<'a> {
        Part { task: Task::new(out, lhs, rhs), into }
    }

    /// The same with a right side that is packed already.
    ///
    /// # Safety
    /// It is that of the product, and its packing is done.
    #[must_use]
    pub(crate) unsafe fn with_packed(mut self, rhs: Option<Packed<'a>>) -> Part<'a> {
        self.task.packed = rhs;
        self
    }

    /// What it writes to and what it reads, for another kernel: the target is the part's own, while it lasts.
    pub(super) fn into_task(self) -> (Task<'a>, Into<'a>) {
        (self.task, self.into)
    }

    /// Computes it on this thread.
    pub fn compute(self) {
        // SAFETY: the parts are disjoint, and `out` is borrowed mutably until all are gone.
        unsafe { self.task.run(self.into, Backend::of_processor()) };
    }
}

/// `out = lhs · rhs` and so on, in a few parts for each thread of the current pool: no element's sum is shared.
///
/// # Panics
/// If the shapes do not fit.
pub fn parts<'a>(out: MatrixMut<'a>, into: Into<'a>, lhs: Matrix<'a>, rhs: Matrix<'a>) -> Vec<Part<'a>> {
    let task = Task::new(out, lhs, rhs);
    let by_rows = task.rows > task.cols;
    let (len, unit) = if by_rows { (task.rows, PART_ROWS) } else { (task.cols, PART_COLS) };
    let part = part_len(len, unit, rayon::current_num_threads());
    (0..len.div_ceil(part))
        .map(|index| {
            let (start, end) = (index * part, len.min((index + 1) * part));
            if by_rows {
                Part { task: task.row_range(start, end), into }
            } else {
                Part { task: task.col_range(start, end), into: into.from(start) }
            }
        })
        .collect()
}

/// How much of `len` a part takes, in whole units: parts of one size, as many for each thread as for the others.
fn part_len(len: usize, unit: usize, threads: usize) -> usize {
    let len = len.max(1);
    if threads == 1 {
        return len;
    }
    let rounds = len.div_ceil(threads * LONGEST_PART);
    len.div_ceil(rounds * threads).next_multiple_of(unit)
}

/// The same on this thread alone.
///
/// # Panics
/// If the shapes do not fit.
pub fn serial_product(out: MatrixMut<'_>, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    Part::whole(out, into, lhs, rhs).compute();
}

/// A product, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) lhs: Matrix<'a>,
    pub(super) rhs: Matrix<'a>,
    /// The same, if it is packed.
    packed: Option<Packed<'a>>,
}

// SAFETY: tasks that run at the same time write to disjoint parts.
unsafe impl Send for Task<'_> {}
// SAFETY: as above.
unsafe impl Sync for Task<'_> {}

/// Who computes products of more than one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    /// Our loops.
    Loops,
    /// Our kernel, with AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Our kernel, with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The `gemm` crate, on other architectures.
    #[cfg_attr(
        all(target_arch = "x86_64", not(test)),
        expect(dead_code, reason = "our kernel is faster there")
    )]
    Gemm,
}

impl Backend {
    /// The fastest of this processor.
    #[inline]
    fn of_processor() -> Backend {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                Backend::Avx512
            } else if crate::numerics::vectorized::is_fast() {
                Backend::Avx2
            } else {
                // The crate would round twice where the definition rounds once.
                Backend::Loops
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Backend::Gemm
    }
}

/// Which code computes a slice of a product.
enum Path {
    /// Nothing to add up.
    Empty,
    /// Our loops: one row, and, instead of the crate, one column, an inner dimension of 1 or 2, and small products of
    /// rows by rows. There it sums across the lanes of a vector, or rounds twice.
    Loops,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Gemm,
}

impl<'a> Task<'a> {
    fn new(out: MatrixMut<'_>, lhs: Matrix<'a>, rhs: Matrix<'a>) -> Task<'a> {
        assert_eq!((out.rows, out.cols), (lhs.rows, rhs.cols), "the result's shape");
        assert_eq!(lhs.cols, rhs.rows, "the inner dimension");
        let MatrixMut { data, rows, cols, row_stride } = out;
        Task { out: data.as_mut_ptr(), out_stride: row_stride, rows, cols, lhs, rhs, packed: None }
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
        self.packed = None;
        self.cols = end - start;
        self
    }

    /// The same of a part of the inner dimension.
    pub(super) fn inner_range(mut self, start: usize, end: usize) -> Task<'a> {
        self.lhs.data = &self.lhs.data[start * self.lhs.col_stride..];
        self.rhs.data = &self.rhs.data[start * self.rhs.row_stride..];
        self.lhs.cols = end - start;
        self.rhs.rows = end - start;
        self.packed = self.packed.map(|packed| packed.from(start));
        self
    }

    fn path(&self, backend: Backend) -> Path {
        let (rows, cols, inner) = (self.rows, self.cols, self.lhs.cols);
        let by_rows = self.lhs.col_stride == 1 && self.rhs.row_stride == 1;
        if rows == 0 || cols == 0 || inner == 0 {
            return Path::Empty;
        }
        match backend {
            _ if rows == 1 => Path::Loops,
            Backend::Loops => Path::Loops,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => Path::Avx512,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => Path::Avx2,
            Backend::Gemm if cols == 1 || inner <= 2 || (by_rows && rows * cols <= 256) => Path::Loops,
            Backend::Gemm => Path::Gemm,
        }
    }

    /// # Safety
    /// Nothing else touches the result's elements meanwhile, and the processor has what the backend needs.
    unsafe fn run(self, into: Into<'_>, backend: Backend) {
        let inner = self.lhs.cols;
        if inner == 0 {
            // SAFETY: handed on.
            unsafe { self.begin(into) };
        }
        for start in (0..inner).step_by(SLICE) {
            let slice = self.inner_range(start, inner.min(start + SLICE));
            let into = if start == 0 { into } else { Into::Add };
            match slice.path(backend) {
                Path::Empty => {}
                // SAFETY: handed on.
                Path::Loops => unsafe { slice.loops(into) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: handed on, and the slice is not longer than it may be.
                Path::Avx512 => unsafe { kernel::run::<instructions::Avx512>(&slice, into) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Path::Avx2 => unsafe { kernel::run::<instructions::Avx2>(&slice, into) },
                // SAFETY: handed on.
                Path::Gemm => unsafe { slice.gemm(into) },
            }
        }
    }

    /// What the result is before the first slice.
    ///
    /// # Safety
    /// As [`Task::run`].
    pub(super) unsafe fn begin(&self, into: Into<'_>) {
        for row in 0..self.rows {
            // SAFETY: the row is the result's, and nothing else touches it.
            let out =
                unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride), self.cols) };
            match into {
                Into::Replace => out.fill(0.0),
                Into::Bias(bias) => out.copy_from_slice(&bias[..self.cols]),
                Into::Add => {}
            }
        }
    }

    /// # Safety
    /// As [`Task::run`].
    unsafe fn loops(&self, into: Into<'_>) {
        for row in 0..self.rows {
            // SAFETY: the row is the result's, and nothing else touches it.
            let out =
                unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_stride), self.cols) };
            let lhs = &self.lhs.data[row * self.lhs.row_stride..];
            if self.rhs.col_stride == 1 {
                loops::row_by_matrix(
                    out,
                    into,
                    lhs,
                    self.lhs.col_stride,
                    self.rhs.data,
                    self.rhs.row_stride,
                    self.rhs.rows,
                );
            } else {
                loops::row_by_rows(out, into, lhs, self.lhs.col_stride, self.rhs);
            }
        }
    }

    /// # Safety
    /// As [`Task::run`].
    unsafe fn gemm(&self, into: Into<'_>) {
        let into = match into {
            Into::Bias(_) => {
                // SAFETY: handed on.
                unsafe { self.begin(into) };
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
