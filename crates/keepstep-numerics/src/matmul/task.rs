//! A product of two matrices, or a part of one, and who computes it.

#[cfg(any(test, not(target_arch = "x86_64")))]
use super::gemm;
#[cfg(target_arch = "x86_64")]
use super::kernel;
use super::packed::Packed;
#[cfg(target_arch = "x86_64")]
use super::simd;
use super::{Into, Matrix, MatrixMut, SLICE, loops};

/// A product, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) lhs: Matrix<'a>,
    pub(crate) rhs: Matrix<'a>,
    /// The same, if it is packed.
    pub(super) packed: Option<Packed<'a>>,
}

// SAFETY: tasks that run at the same time write to disjoint parts.
unsafe impl Send for Task<'_> {}
// SAFETY: as above.
unsafe impl Sync for Task<'_> {}

/// Who computes products of more than one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// Our loops.
    #[cfg_attr(not(any(test, target_arch = "x86_64")), expect(dead_code, reason = "the crate is faster"))]
    Loops,
    /// Our kernel, with AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Our kernel, with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The `gemm` crate, on other architectures.
    #[cfg(any(test, not(target_arch = "x86_64")))]
    Gemm,
}

impl Backend {
    /// The fastest of this processor.
    #[inline]
    pub(super) fn of_processor() -> Backend {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                Backend::Avx512
            } else if crate::vectorized::is_fast() {
                Backend::Avx2
            } else {
                Backend::Loops
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Backend::Gemm
    }
}

impl<'a> Task<'a> {
    pub(super) fn new(out: MatrixMut<'_>, lhs: Matrix<'a>, rhs: Matrix<'a>) -> Task<'a> {
        assert_eq!((out.rows, out.cols), (lhs.rows, rhs.cols), "the result's shape");
        assert_eq!(lhs.cols, rhs.rows, "the inner dimension");
        let MatrixMut { data, rows, cols, row_stride } = out;
        Task { out: data.as_mut_ptr(), out_stride: row_stride, rows, cols, lhs, rhs, packed: None }
    }

    pub(super) fn row_range(mut self, start: usize, end: usize) -> Task<'a> {
        self.out = self.out.wrapping_add(start * self.out_stride);
        self.lhs.data = &self.lhs.data[start * self.lhs.row_stride..];
        self.lhs.rows = end - start;
        self.rows = end - start;
        self
    }

    pub(super) fn col_range(mut self, start: usize, end: usize) -> Task<'a> {
        self.out = self.out.wrapping_add(start);
        self.rhs.data = &self.rhs.data[start * self.rhs.col_stride..];
        self.rhs.cols = end - start;
        self.packed = None;
        self.cols = end - start;
        self
    }

    /// The same of a part of the inner dimension.
    fn inner_range(mut self, start: usize, end: usize) -> Task<'a> {
        self.lhs.data = &self.lhs.data[start * self.lhs.col_stride..];
        self.rhs.data = &self.rhs.data[start * self.rhs.row_stride..];
        self.lhs.cols = end - start;
        self.rhs.rows = end - start;
        self.packed = self.packed.map(|packed| packed.from(start));
        self
    }

    /// # Safety
    /// Nothing else touches the result's elements meanwhile, and the processor has what the backend needs.
    pub(super) unsafe fn run(self, into: Into<'_>, backend: Backend) {
        // SAFETY: handed on.
        unsafe { self.for_each_slice(SLICE, into, |slice, into| slice.run_slice(into, backend)) };
    }

    /// Calls `compute` with each slice of at most `len` of the inner dimension, in order: the first replaces what is in the
    /// result, if that is wanted, and the others add to it.
    ///
    /// # Safety
    /// Nothing else touches the result's elements meanwhile.
    pub(crate) unsafe fn for_each_slice(
        self,
        len: usize,
        into: Into<'_>,
        compute: impl Fn(&Task<'_>, Into<'_>),
    ) {
        let inner = self.lhs.cols;
        if inner == 0 {
            // SAFETY: handed on.
            unsafe { self.begin(into) };
        }
        for start in (0..inner).step_by(len) {
            let slice = self.inner_range(start, inner.min(start + len));
            if slice.rows > 0 && slice.cols > 0 {
                compute(&slice, if start == 0 { into } else { Into::Add });
            }
        }
    }

    /// # Safety
    /// As [`Task::run`]; and the inner dimension is not longer than a slice.
    unsafe fn run_slice(&self, into: Into<'_>, backend: Backend) {
        // SAFETY: handed on.
        unsafe {
            match backend {
                _ if self.rows == 1 => self.loops(into),
                Backend::Loops => self.loops(into),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512 => kernel::run::<simd::Avx512>(self, into),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx2 => kernel::run::<simd::Avx2>(self, into),
                #[cfg(any(test, not(target_arch = "x86_64")))]
                Backend::Gemm if gemm::sums_otherwise(self) => self.loops(into),
                #[cfg(any(test, not(target_arch = "x86_64")))]
                Backend::Gemm => gemm::run(self, into),
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
}
