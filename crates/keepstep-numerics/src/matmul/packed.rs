//! The right side of a matmul, packed once and read many times.

use super::aligned::AlignedBuffer;
use super::matrix::Matrix;
use super::simd::Simd;
use std::marker::PhantomData;

/// The number of columns in the widest tile. Ranges of columns begin at multiples of it and consist of whole panels.
pub(super) const WIDEST_TILE: usize = 32;

/// Columns that one task packs.
const TASK_COLS: usize = 4 * WIDEST_TILE;

/// How a kernel packs: for each slice of the inner dimension, panels of a tile's width, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    format: Format,
    /// Numbers of the inner dimension in a slice.
    slice: usize,
    /// Packs columns of one slice: see [`Simd::pack_right`].
    pack_right: unsafe fn(&mut [f32], &Matrix<'_>, usize, usize),
}

/// The format of a packed matrix, which a kernel compares with its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    tile_cols: usize,
    /// Numbers of the inner dimension in one factor.
    step: usize,
}

impl Format {
    const fn from_simd<S: Simd>() -> Format {
        Format { tile_cols: S::TILE_COLS, step: S::STEP }
    }
}

impl Packing {
    /// Returns the packing of the kernel that is compiled for this set of instructions.
    ///
    /// # Safety
    /// The processor has the set.
    pub(crate) unsafe fn from_simd<S: Simd>() -> Packing {
        /// # Safety
        /// The processor has the set.
        unsafe fn pack_right<S: Simd>(out: &mut [f32], rhs: &Matrix<'_>, col: usize, cols: usize) {
            // SAFETY: the caller guarantees the instructions.
            unsafe { S::pack_right(bytemuck::cast_slice_mut(out), rhs, col, cols) }
        }
        Packing { format: Format::from_simd::<S>(), slice: S::SLICE, pack_right: pack_right::<S> }
    }

    /// Returns the largest room that any kernel needs for a packed matrix, in numbers of four bytes.
    #[inline]
    pub fn max_len(inner: usize, cols: usize) -> usize {
        inner * cols.next_multiple_of(WIDEST_TILE)
    }

    /// Appends the work of packing a matrix to `tasks` and returns the packed matrix, which is ready after these tasks.
    ///
    /// # Safety
    /// The buffer's [`max_len`](Packing::max_len) numbers from `first` on belong to this matrix until the last task and
    /// the last use of the packed matrix. Nothing reads the packed matrix before all tasks are done.
    ///
    /// # Panics
    /// If the buffer is too short.
    #[inline]
    pub unsafe fn pack<'a>(
        self,
        buffer: &PackBuffer<'a>,
        first: usize,
        matrix: Matrix<'a>,
        tasks: &mut Vec<PackTask<'a>>,
    ) -> PackedRhs<'a> {
        let (inner, cols) = (matrix.rows, matrix.cols);
        let padded = cols.next_multiple_of(self.format.tile_cols);
        assert!(first + Packing::max_len(inner, cols) <= buffer.len, "room for the matrix");
        let start = buffer.start.wrapping_add(first);
        let mut end = start;
        for slice in (0..inner).step_by(self.slice) {
            let rows = self.slice.min(inner - slice);
            let steps = rows.div_ceil(self.format.step);
            let matrix = Matrix { data: &matrix.data[slice * matrix.row_stride..], rows, ..matrix };
            for col in (0..cols).step_by(TASK_COLS) {
                let out = end.wrapping_add(col * steps);
                let cols = TASK_COLS.min(cols - col);
                let out_len = steps * cols.next_multiple_of(self.format.tile_cols);
                tasks.push(PackTask { pack_right: self.pack_right, out, out_len, matrix, col, cols });
            }
            end = end.wrapping_add(steps * padded);
        }
        PackedRhs { start, cols: padded, format: self.format, buffer: PhantomData }
    }
}

/// Memory for packed matrices. It can hold several, each in a separate range.
#[derive(Debug, Clone, Copy)]
pub struct PackBuffer<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut AlignedBuffer>,
}

impl<'a> PackBuffer<'a> {
    /// Wraps a whole buffer.
    #[inline]
    pub fn new(buffer: &'a mut AlignedBuffer) -> PackBuffer<'a> {
        let numbers = buffer.as_mut_slice::<f32>();
        PackBuffer { start: numbers.as_mut_ptr(), len: numbers.len(), borrow: PhantomData }
    }
}

/// A range of columns of one slice, to pack on any thread.
///
/// # Invariants
/// `out` points to `out_len` numbers that no other task and no reader uses before this task is done. The processor has
/// the instructions of `pack_right`.
#[derive(Debug)]
pub struct PackTask<'a> {
    pack_right: unsafe fn(&mut [f32], &Matrix<'_>, usize, usize),
    out: *mut f32,
    out_len: usize,
    matrix: Matrix<'a>,
    col: usize,
    cols: usize,
}

// SAFETY: by the type's invariants, a task's range of the buffer belongs to the task alone, on whichever thread it
// runs.
unsafe impl Send for PackTask<'_> {}

impl PackTask<'_> {
    /// Packs the columns.
    #[inline]
    pub fn run(self) {
        // SAFETY: the type's invariants, which the caller of `Packing::pack` has promised to keep.
        unsafe {
            let out = std::slice::from_raw_parts_mut(self.out, self.out_len);
            (self.pack_right)(out, &self.matrix, self.col, self.cols);
        }
    }
}

/// A packed right side.
#[derive(Debug, Clone, Copy)]
pub struct PackedRhs<'a> {
    start: *const f32,
    /// Columns in whole panels.
    cols: usize,
    format: Format,
    buffer: PhantomData<&'a AlignedBuffer>,
}

// SAFETY: a packed matrix is only read. By the contract of `Packing::pack`, nothing writes to it at the same time.
unsafe impl Send for PackedRhs<'_> {}
// SAFETY: a packed matrix is only read. By the contract of `Packing::pack`, nothing writes to it at the same time.
unsafe impl Sync for PackedRhs<'_> {}

impl PackedRhs<'_> {
    /// Returns the same matrix from the slice on that begins at `start` in the inner dimension.
    pub(super) fn at_inner(mut self, start: usize) -> Self {
        self.start = self.start.wrapping_add(start / self.format.step * self.cols);
        self
    }

    /// Returns the first panel, if the panels have the format that this kernel reads.
    pub(super) fn panels<S: Simd>(self) -> Option<*const S::Factor> {
        (self.format == Format::from_simd::<S>()).then_some(self.start.cast())
    }
}
