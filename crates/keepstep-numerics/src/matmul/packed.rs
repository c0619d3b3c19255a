//! The right side of a matmul, packed once and read many times.

use super::matrix::Matrix;
use super::simd::Simd;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// # Panics
    /// If `room` is shorter than [`max_len`](Packing::max_len).
    #[inline]
    pub fn pack<'a>(
        self,
        room: &'a mut [f32],
        matrix: Matrix<'a>,
        tasks: &mut Vec<PackTask<'a>>,
    ) -> PackedMatrix<'a> {
        let (inner, cols) = (matrix.rows, matrix.cols);
        let padded = cols.next_multiple_of(self.format.tile_cols);
        assert!(Packing::max_len(inner, cols) <= room.len(), "room for the matrix");
        let num_tasks = inner.div_ceil(self.slice) * cols.div_ceil(TASK_COLS);
        let unfinished = Arc::new(AtomicUsize::new(num_tasks));
        let start = room.as_mut_ptr();
        let mut end = start;
        for slice in (0..inner).step_by(self.slice) {
            let rows = self.slice.min(inner - slice);
            let steps = rows.div_ceil(self.format.step);
            let matrix = Matrix { data: &matrix.data[slice * matrix.row_stride..], rows, ..matrix };
            for col in (0..cols).step_by(TASK_COLS) {
                let out = end.wrapping_add(col * steps);
                let cols = TASK_COLS.min(cols - col);
                let out_len = steps * cols.next_multiple_of(self.format.tile_cols);
                let unfinished = Arc::clone(&unfinished);
                tasks.push(PackTask {
                    pack_right: self.pack_right,
                    out,
                    out_len,
                    matrix,
                    col,
                    cols,
                    unfinished,
                });
            }
            end = end.wrapping_add(steps * padded);
        }
        let panels = PackedRhs { start, cols: padded, format: self.format, buffer: PhantomData };
        PackedMatrix { panels, matrix, unfinished }
    }
}

/// A range of columns of one slice, to pack on any thread.
///
/// # Invariants
/// `out` points to `out_len` numbers that are borrowed mutably for `'a`. No other task uses them, and no reader before
/// this task has counted itself as finished. The processor has the instructions of `pack_right`.
#[derive(Debug)]
pub struct PackTask<'a> {
    pack_right: unsafe fn(&mut [f32], &Matrix<'_>, usize, usize),
    out: *mut f32,
    out_len: usize,
    matrix: Matrix<'a>,
    col: usize,
    cols: usize,
    /// The tasks of the matrix that are not finished.
    unfinished: Arc<AtomicUsize>,
}

// SAFETY: by the type's invariants, a task's range of the buffer belongs to the task alone, on whichever thread it
// runs.
unsafe impl Send for PackTask<'_> {}

impl PackTask<'_> {
    /// Packs the columns.
    #[inline]
    pub fn run(self) {
        // SAFETY: by the type's invariants, only this task uses the numbers, and the processor has the instructions.
        unsafe {
            let out = std::slice::from_raw_parts_mut(self.out, self.out_len);
            (self.pack_right)(out, &self.matrix, self.col, self.cols);
        }
        self.unfinished.fetch_sub(1, Ordering::Release);
    }
}

/// A packed matrix. It can be read when all its tasks are finished.
#[derive(Debug)]
pub struct PackedMatrix<'a> {
    panels: PackedRhs<'a>,
    matrix: Matrix<'a>,
    unfinished: Arc<AtomicUsize>,
}

impl PackedMatrix<'_> {
    /// Returns the panels, for a matmul with this right side.
    ///
    /// # Panics
    /// If the right side is another matrix, or not all tasks are finished.
    pub(super) fn panels_of(&self, rhs: &Matrix<'_>) -> PackedRhs<'_> {
        let parts = |matrix: &Matrix<'_>| {
            let Matrix { data, rows, cols, row_stride, col_stride } = *matrix;
            (data.as_ptr(), rows, cols, row_stride, col_stride)
        };
        assert_eq!(parts(rhs), parts(&self.matrix), "the matrix that was packed");
        // What the tasks have written before they counted themselves is seen after this.
        assert_eq!(self.unfinished.load(Ordering::Acquire), 0, "tasks that are not finished");
        self.panels
    }
}

/// The panels of a packed right side.
///
/// # Invariants
/// All tasks of the matrix are finished, except inside its [`PackedMatrix`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedRhs<'a> {
    start: *const f32,
    /// Columns in whole panels.
    cols: usize,
    format: Format,
    buffer: PhantomData<&'a [f32]>,
}

// SAFETY: panels are only read, and by the type's invariants, no task writes to them any more.
unsafe impl Send for PackedRhs<'_> {}
// SAFETY: panels are only read, and by the type's invariants, no task writes to them any more.
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
