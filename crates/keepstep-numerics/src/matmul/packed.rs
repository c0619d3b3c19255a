//! The right side of products, packed once for many of them.

use super::aligned::Lines;
#[cfg(target_arch = "x86_64")]
use super::simd::{self, Instructions};
use super::{Matrix, PART_COLS};

/// Columns of a piece.
const PIECE_COLS: usize = 4 * PART_COLS;

/// How the kernel at hand packs: for each slice of the inner dimension, panels of a tile's width, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    format: Format,
    /// Numbers of the inner dimension of a slice.
    slice: usize,
    pack_right: unsafe fn(*mut f32, &Matrix<'_>, usize, usize),
}

/// What a kernel must know of a packed matrix to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    tile_cols: usize,
    /// Numbers of the inner dimension in four bytes.
    step: usize,
}

#[cfg(target_arch = "x86_64")]
impl Format {
    const fn of<I: Instructions>() -> Format {
        Format { tile_cols: I::TILE_COLS, step: I::STEP }
    }
}

impl Packing {
    /// Of float32's products on this processor, if their kernel is ours.
    pub fn of_processor() -> Option<Packing> {
        #[cfg(target_arch = "x86_64")]
        match super::Backend::of_processor() {
            super::Backend::Avx512 => return Some(Packing::of::<simd::Avx512>()),
            super::Backend::Avx2 => return Some(Packing::of::<simd::Avx2>()),
            _ => {}
        }
        None
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of<I: Instructions>() -> Packing {
        /// # Safety
        /// As [`Instructions::pack_right`].
        unsafe fn pack_right<I: Instructions>(out: *mut f32, rhs: &Matrix<'_>, col: usize, cols: usize) {
            // SAFETY: handed on; factors are four bytes.
            unsafe { I::pack_right(out.cast(), rhs, col, cols) }
        }
        Packing { format: Format::of::<I>(), slice: I::SLICE, pack_right: pack_right::<I> }
    }

    /// No kernel needs more room for a matrix, in numbers of four bytes.
    #[inline]
    pub fn max_len(inner: usize, cols: usize) -> usize {
        inner * cols.next_multiple_of(PART_COLS)
    }

    /// Adds the work of packing a matrix to `pieces`, and gives what it will be packed to.
    ///
    /// # Safety
    /// From `first` on, the room has [`max_len`](Packing::max_len) numbers of which nothing else is used while the pieces
    /// or the packed matrix are; it is read after all pieces are done.
    #[inline]
    pub unsafe fn pack<'a>(
        self,
        room: &Room<'a>,
        first: usize,
        matrix: Matrix<'a>,
        pieces: &mut Vec<Piece<'a>>,
    ) -> Packed<'a> {
        let (inner, cols) = (matrix.rows, matrix.cols);
        let padded = cols.next_multiple_of(self.format.tile_cols);
        assert!(first + Packing::max_len(inner, cols) <= room.len, "room for the matrix");
        // SAFETY: within the room.
        let start = unsafe { room.start.add(first) };
        let mut end = start;
        for slice in (0..inner).step_by(self.slice) {
            let rows = self.slice.min(inner - slice);
            let steps = rows.div_ceil(self.format.step);
            let matrix = Matrix { data: &matrix.data[slice * matrix.row_stride..], rows, ..matrix };
            for col in (0..cols).step_by(PIECE_COLS) {
                let out = end.wrapping_add(col * steps);
                let cols = PIECE_COLS.min(cols - col);
                pieces.push(Piece { pack_right: self.pack_right, out, matrix, col, cols });
            }
            end = end.wrapping_add(steps * padded);
        }
        Packed { start, cols: padded, format: self.format, room: room.borrow }
    }
}

/// Memory for packed matrices, of which several are packed and read at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    start: *mut f32,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut Lines>,
}

impl<'a> Room<'a> {
    /// All of a buffer.
    #[inline]
    pub fn new(lines: &'a mut Lines) -> Room<'a> {
        Room { start: lines.as_mut_ptr(), len: lines.len(), borrow: std::marker::PhantomData }
    }
}

/// Some columns of one slice that are to be packed.
#[derive(Debug)]
pub struct Piece<'a> {
    pack_right: unsafe fn(*mut f32, &Matrix<'_>, usize, usize),
    out: *mut f32,
    matrix: Matrix<'a>,
    col: usize,
    cols: usize,
}

// SAFETY: each piece writes to a place of its own, as who made it has promised.
unsafe impl Send for Piece<'_> {}

impl Piece<'_> {
    /// Packs it.
    #[inline]
    pub fn pack(self) {
        // SAFETY: there is room, and nothing else uses it, as who made the piece has promised.
        unsafe { (self.pack_right)(self.out, &self.matrix, self.col, self.cols) }
    }
}

/// A packed right side.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    start: *const f32,
    /// Of a whole row of panels.
    cols: usize,
    format: Format,
    room: std::marker::PhantomData<&'a mut Lines>,
}

// SAFETY: it is only read.
unsafe impl Send for Packed<'_> {}
// SAFETY: as above.
unsafe impl Sync for Packed<'_> {}

impl Packed<'_> {
    /// The same from a slice of the inner dimension on, which begins at its number `start`.
    pub(super) fn from(mut self, start: usize) -> Self {
        self.start = self.start.wrapping_add(start / self.format.step * self.cols);
        self
    }

    /// Its panels, if they are as this kernel reads them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn panels<I: Instructions>(self) -> Option<*const I::Factor> {
        (self.format == Format::of::<I>()).then_some(self.start.cast())
    }
}
