//! A right side with contiguous rows. Processors foresee long pieces of memory in ascending order, so whole rows of a
//! part are read, a few at a time, without asking for memory ahead; the sums stay in the caches.

use super::{Left, Right};
use crate::matmul::simd::SimdF32;

/// Rows of the right side that one pass over the sums takes. [`Tiles::tile`] lists them.
const STEPS: usize = 8;

/// Adds to the sums of columns of a matrix with contiguous rows.
///
/// # Safety
/// The processor has the set. Both sides are as their types tell. `sums` has `panel` numbers for each row of the left
/// side, at least as many as there are columns.
#[inline(always)]
pub(super) unsafe fn add<S: SimdF32>(sums: &mut [f32], panel: usize, lhs: Left<'_>, rhs: Right<'_>) {
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
