//! Matmuls of a few rows by a matrix that lies in memory and is read once: what decoding computes.
//!
//! Memory limits their speed. The right side is read in place, each number once for all rows. Processors foresee long
//! pieces of memory in ascending order, so whole rows of a part are read, a few at a time, without asking for memory
//! ahead; the sums stay in the caches. Each element has the bits of the [definition](super::definition).

use super::aligned::AlignedBuffer;
#[cfg(target_arch = "x86_64")]
use super::avx::{Avx2, Avx512};
use super::backend::Backend;
use super::definition::SLICE;
use super::loops;
use super::matrix::Accumulate;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::prefetch::prefetch;
use super::problem::Problem;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::simd::SimdF32;
use std::cell::RefCell;

/// The most sums that are kept at a time, where the right side has contiguous rows: they fit in the first-level cache.
const MAX_SUMS: usize = 4096;

/// The least columns whose sums are kept at a time, a multiple of every tile's width.
const MIN_PANEL: usize = 128;

/// Rows of the right side that one pass over the sums takes. [`Tiles::tile`] lists them.
const STEPS: usize = 8;

/// Columns that are computed together where they are contiguous: as many places in memory are read in turn.
const COLUMNS: usize = 16;

/// How far ahead numbers of a contiguous column are asked for.
const AHEAD: usize = 256;

thread_local! {
    static SUMS: RefCell<AlignedBuffer> = const { RefCell::new(AlignedBuffer::new()) };
}

impl Backend {
    /// Computes a matmul, and reads the right side once.
    ///
    /// # Safety
    /// Nothing else accesses the result during the call.
    pub(super) unsafe fn run_streamed(self, problem: &Problem<'_>, accumulate: Accumulate<'_>) {
        // SAFETY: the backend exists, so the processor has its instructions. The caller guarantees that nothing else
        // accesses the result.
        SUMS.with_borrow_mut(|sums| unsafe {
            match self {
                _ if problem.lhs.col_stride != 1 || problem.lhs.cols == 0 => in_loops(problem, accumulate),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512 => avx512(problem, accumulate, sums),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx2 => avx2(problem, accumulate, sums),
                #[cfg(target_arch = "aarch64")]
                Backend::Neon => compute::<Neon>(problem, accumulate, sums),
                _ => in_loops(problem, accumulate),
            }
        });
    }
}

/// # Safety
/// Nothing else accesses the result during the call.
unsafe fn in_loops(problem: &Problem<'_>, accumulate: Accumulate<'_>) {
    // SAFETY: the caller guarantees that nothing else accesses the result.
    unsafe { problem.for_each_slice(SLICE, accumulate, |slice, accumulate| loops::run(slice, accumulate)) }
}

/// # Safety
/// The contract of [`compute`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(problem: &Problem<'_>, accumulate: Accumulate<'_>, sums: &mut AlignedBuffer) {
    // SAFETY: the caller guarantees the same.
    unsafe { compute::<Avx512>(problem, accumulate, sums) }
}

/// # Safety
/// The contract of [`compute`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(problem: &Problem<'_>, accumulate: Accumulate<'_>, sums: &mut AlignedBuffer) {
    // SAFETY: the caller guarantees the same.
    unsafe { compute::<Avx2>(problem, accumulate, sums) }
}

/// The left side of one slice: rows of contiguous numbers.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    stride: usize,
    rows: usize,
    inner: usize,
}

/// The right side of one slice from some column on.
#[derive(Clone, Copy)]
struct Right<'a> {
    data: &'a [f32],
    /// The distance between rows, if these are contiguous, and between columns otherwise.
    stride: usize,
    cols: usize,
}

/// Computes a matmul, some columns at a time.
///
/// # Safety
/// The processor has the set, the left side has contiguous rows, and nothing else accesses the result during the call.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn compute<S: SimdF32>(problem: &Problem<'_>, accumulate: Accumulate<'_>, sums: &mut AlignedBuffer) {
    let (lhs, rhs, rows) = (&problem.lhs, &problem.rhs, problem.rows);
    let has_rows = rhs.col_stride == 1;
    let panel =
        if has_rows { (MAX_SUMS / rows.max(1) / MIN_PANEL * MIN_PANEL).max(MIN_PANEL) } else { COLUMNS };
    let sums: &mut [f32] = sums.grown(rows * panel);
    for col in (0..problem.cols).step_by(panel) {
        let cols = panel.min(problem.cols - col);
        for start in (0..lhs.cols).step_by(SLICE) {
            let inner = SLICE.min(lhs.cols - start);
            let left = Left { data: &lhs.data[start..], stride: lhs.row_stride, rows, inner };
            let data = &rhs.data[start * rhs.row_stride + col * rhs.col_stride..];
            sums.fill(0.0);
            // SAFETY: the left side has `inner` numbers in each of its rows, the right side has `inner` rows of `cols`
            // columns, and there are `panel` sums for each row. The caller guarantees the instructions.
            unsafe {
                if has_rows {
                    add_by_rows::<S>(sums, panel, left, Right { data, stride: rhs.row_stride, cols });
                } else {
                    add_by_columns::<S>(sums, panel, left, Right { data, stride: rhs.col_stride, cols });
                }
            }
            let accumulate = if start == 0 { accumulate.at_col(col) } else { Accumulate::Add };
            for (row, sums) in sums.chunks_exact(panel).enumerate() {
                // SAFETY: the caller guarantees that nothing else accesses the result.
                let out = unsafe { problem.out_row(row) };
                accumulate.store(&mut out[col..col + cols], &sums[..cols]);
            }
        }
    }
}

/// Adds to the sums of columns of a matrix with contiguous rows.
///
/// # Safety
/// The processor has the set. Both sides are as their types tell. `sums` has `panel` numbers for each row of the left
/// side, at least as many as there are columns.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn add_by_rows<S: SimdF32>(sums: &mut [f32], panel: usize, lhs: Left<'_>, rhs: Right<'_>) {
    let (whole, steps) = (rhs.cols / S::LANES * S::LANES, lhs.inner / STEPS * STEPS);
    let start = sums.as_mut_ptr();
    let tiles = |row: usize, k: usize| Tiles {
        sums: start.wrapping_add(row * panel),
        panel,
        lhs: lhs.data.as_ptr().wrapping_add(row * lhs.stride + k),
        lhs_stride: lhs.stride,
        rhs: rhs.data.as_ptr().wrapping_add(k * rhs.stride),
        rhs_stride: rhs.stride,
        cols: whole,
    };
    // SAFETY: the rows of each case exist, and so do `STEPS` numbers from `k` on of each, as many rows of the right side
    // with `whole` columns, and the sums. The caller guarantees the instructions.
    unsafe {
        for k in (0..steps).step_by(STEPS) {
            let mut row = 0;
            while row < lhs.rows {
                let tiles = tiles(row, k);
                // As many sums as leave registers for the factors. Sets with short tiles have sixteen registers. For a
                // single row, wide tiles read long pieces of memory, if they leave no columns over.
                row += match lhs.rows - row {
                    1 if S::TILE_ROWS >= 12 && whole.is_multiple_of(24 * S::LANES) => tiles.add::<S, 1, 24>(),
                    1 => tiles.add::<S, 1, 8>(),
                    2 if S::TILE_ROWS < 12 => tiles.add::<S, 2, 4>(),
                    2 => tiles.add::<S, 2, 8>(),
                    3 if S::TILE_ROWS < 12 => tiles.add::<S, 3, 2>(),
                    3 => tiles.add::<S, 3, 4>(),
                    _ if S::TILE_ROWS < 12 => tiles.add::<S, 4, 2>(),
                    4 | 5 => tiles.add::<S, 4, 4>(),
                    6 | 7 => tiles.add::<S, 6, 4>(),
                    _ => tiles.add::<S, 8, 2>(),
                };
            }
        }
    }
    if whole == rhs.cols && steps == lhs.inner {
        return;
    }
    // The last columns of all rows, and all columns of the last rows.
    for (row, sums) in sums.chunks_exact_mut(panel).enumerate() {
        for (k, &left) in lhs.data[row * lhs.stride..][..lhs.inner].iter().enumerate() {
            let first = if k < steps { whole } else { 0 };
            for (sum, right) in sums[first..rhs.cols].iter_mut().zip(&rhs.data[k * rhs.stride + first..]) {
                *sum = left.mul_add(*right, *sum);
            }
        }
    }
}

/// `STEPS` steps of the inner dimension for some rows and columns.
#[derive(Clone, Copy)]
struct Tiles {
    sums: *mut f32,
    panel: usize,
    lhs: *const f32,
    lhs_stride: usize,
    rhs: *const f32,
    rhs_stride: usize,
    /// A multiple of the lanes of a register.
    cols: usize,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Tiles {
    /// Adds to `ROWS` rows, in tiles of `REGISTERS` registers each. Returns the number of rows.
    ///
    /// # Safety
    /// The processor has the set. The left side has `ROWS` rows of `STEPS` numbers, the right side `STEPS` rows of
    /// `cols` columns, and the sums have `ROWS` rows.
    #[inline(always)]
    unsafe fn add<S: SimdF32, const ROWS: usize, const REGISTERS: usize>(self) -> usize {
        let mut col = 0;
        // SAFETY: all columns lie below `cols`. The caller guarantees the rest.
        unsafe {
            while col + REGISTERS * S::LANES <= self.cols {
                self.tile::<S, ROWS, REGISTERS>(col);
                col += REGISTERS * S::LANES;
            }
            while REGISTERS > 4 && col + 4 * S::LANES <= self.cols {
                self.tile::<S, ROWS, 4>(col);
                col += 4 * S::LANES;
            }
            while col < self.cols {
                self.tile::<S, ROWS, 1>(col);
                col += S::LANES;
            }
        }
        ROWS
    }

    /// Adds to `REGISTERS` registers of columns.
    ///
    /// # Safety
    /// The contract of [`add`](Tiles::add); and the columns exist.
    #[inline(always)]
    unsafe fn tile<S: SimdF32, const ROWS: usize, const REGISTERS: usize>(self, col: usize) {
        // SAFETY: the caller guarantees the rows, the columns and the instructions.
        unsafe {
            let at =
                |row: usize, register: usize| self.sums.add(row * self.panel + col + register * S::LANES);
            let mut sums = [[S::zero(); REGISTERS]; ROWS];
            for (row, sums) in sums.iter_mut().enumerate() {
                for (register, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(at(row, register));
                }
            }
            if ROWS <= 2 {
                // One row of the right side after the other: memory is read in longer pieces.
                for k in 0..STEPS {
                    self.step::<S, ROWS, REGISTERS>(&mut sums, col, k);
                }
            } else {
                // Written out, because the compiler would keep a loop, and addresses would take as long as the sums.
                self.step::<S, ROWS, REGISTERS>(&mut sums, col, 0);
                self.step::<S, ROWS, REGISTERS>(&mut sums, col, 1);
                self.step::<S, ROWS, REGISTERS>(&mut sums, col, 2);
                self.step::<S, ROWS, REGISTERS>(&mut sums, col, 3);
                self.step::<S, ROWS, REGISTERS>(&mut sums, col, 4);
                self.step::<S, ROWS, REGISTERS>(&mut sums, col, 5);
                self.step::<S, ROWS, REGISTERS>(&mut sums, col, 6);
                self.step::<S, ROWS, REGISTERS>(&mut sums, col, 7);
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (register, sum) in sums.into_iter().enumerate() {
                    S::store(at(row, register), sum);
                }
            }
        }
    }

    /// One step of the inner dimension of a tile.
    ///
    /// # Safety
    /// The contract of [`tile`](Tiles::tile); and the step is below `STEPS`.
    #[inline(always)]
    unsafe fn step<S: SimdF32, const ROWS: usize, const REGISTERS: usize>(
        &self,
        sums: &mut [[S::Sums; REGISTERS]; ROWS],
        col: usize,
        k: usize,
    ) {
        // SAFETY: the caller guarantees the rows, the columns and the instructions.
        unsafe {
            let from = self.rhs.add(k * self.rhs_stride + col);
            let mut right = [S::load_factors(from); REGISTERS];
            for (register, right) in right.iter_mut().enumerate().skip(1) {
                *right = S::load_factors(from.add(register * S::LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = S::splat(*self.lhs.add(row * self.lhs_stride + k));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = S::multiply_add(left, right, *sum);
                }
            }
        }
    }
}

/// Adds to the sums of contiguous columns. Square blocks are transposed: a register then holds one number of as many
/// columns as it has lanes.
///
/// # Safety
/// The processor has the set. Both sides are as their types tell. `sums` has `panel` numbers for each row of the left
/// side, at least as many as there are columns.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn add_by_columns<S: SimdF32>(sums: &mut [f32], panel: usize, lhs: Left<'_>, rhs: Right<'_>) {
    let (whole, steps) = (rhs.cols / S::LANES * S::LANES, lhs.inner / S::LANES * S::LANES);
    for k in (0..steps).step_by(S::LANES) {
        for col in 0..rhs.cols {
            prefetch(rhs.data.as_ptr().wrapping_add(col * rhs.stride + k + AHEAD));
        }
        for col in (0..whole).step_by(S::LANES) {
            // SAFETY: the rows of each case exist. They, their sums and the columns have a register's numbers. The
            // caller guarantees the instructions.
            unsafe {
                let square = S::load_transposed(rhs.data.as_ptr().add(col * rhs.stride + k), rhs.stride);
                let mut row = 0;
                while row < lhs.rows {
                    let left = lhs.data.as_ptr().add(row * lhs.stride + k);
                    let sums = sums.as_mut_ptr().add(row * panel + col);
                    row += match lhs.rows - row {
                        1 => add_square::<S, 1>(sums, panel, left, lhs.stride, &square),
                        2 | 3 => add_square::<S, 2>(sums, panel, left, lhs.stride, &square),
                        4..8 => add_square::<S, 4>(sums, panel, left, lhs.stride, &square),
                        _ => add_square::<S, 8>(sums, panel, left, lhs.stride, &square),
                    };
                }
            }
        }
    }
    if whole == rhs.cols && steps == lhs.inner {
        return;
    }
    // All numbers of the last columns, and the last numbers of all columns.
    for (row, sums) in sums.chunks_exact_mut(panel).enumerate() {
        let left = &lhs.data[row * lhs.stride..][..lhs.inner];
        for (col, sum) in sums[..rhs.cols].iter_mut().enumerate() {
            let first = if col < whole { steps } else { 0 };
            let right = &rhs.data[col * rhs.stride..][..lhs.inner];
            for (left, right) in left[first..].iter().zip(&right[first..]) {
                *sum = left.mul_add(*right, *sum);
            }
        }
    }
}

/// Adds the steps of a transposed block to `ROWS` rows. Returns the number of rows.
///
/// # Safety
/// The processor has the set. Each row of the left side and of the sums has a register's numbers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn add_square<S: SimdF32, const ROWS: usize>(
    to: *mut f32,
    panel: usize,
    lhs: *const f32,
    lhs_stride: usize,
    square: &S::Square,
) -> usize {
    // SAFETY: the caller guarantees the numbers and the instructions.
    unsafe {
        let mut sums = [S::zero(); ROWS];
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum = S::load(to.add(row * panel));
        }
        for (k, &right) in square.as_ref().iter().enumerate() {
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = S::multiply_add(S::splat(*lhs.add(row * lhs_stride + k)), right, *sum);
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            S::store(to.add(row * panel), sum);
        }
    }
    ROWS
}
