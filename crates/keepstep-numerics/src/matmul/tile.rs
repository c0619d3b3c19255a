//! The arithmetic: a tile of the result in registers. It has 6 x 16 elements with AVX2, 12 x 32 with AVX-512 and 12 x 8
//! with NEON.

use super::matrix::Accumulate;
use super::packed::WIDEST_TILE;
use super::prefetch::prefetch;
use super::simd::{Simd, Tile};

/// Computes `ROWS` rows of a tile.
///
/// # Safety
/// The contract of [`Simd::compute`].
#[inline(always)]
pub(crate) unsafe fn compute<S: Simd, const ROWS: usize, const IS_PACKED: bool>(
    tile: Tile<S>,
    accumulate: Accumulate<'_>,
) {
    const { assert!(S::TILE_COLS <= WIDEST_TILE) };
    // SAFETY: by the tile's promises, each row of the left side has `steps` factors, the panel of the right side has
    // `steps * TILE_COLS`, and the tile's elements of the result are ours alone. The caller guarantees the
    // instructions.
    unsafe {
        let mut sums = [[S::zero(); 2]; ROWS];
        if S::HAS_PARTS && !tile.before.is_null() {
            for (row, sums) in sums.iter_mut().enumerate() {
                let before = tile.before.add(row * S::TILE_COLS);
                *sums = [S::load(before), S::load(before.add(S::LANES))];
            }
        }
        if !S::HAS_PARTS || tile.after.is_null() {
            for row in 0..ROWS {
                let out = tile.out.wrapping_add(row * tile.out_stride);
                prefetch(out);
                prefetch(out.wrapping_add(S::TILE_COLS - 1));
            }
        }
        let (mut lhs, mut rhs) = (tile.lhs, tile.rhs);
        let stride = if IS_PACKED { 1 } else { tile.lhs_stride };
        let step = if IS_PACKED { S::TILE_ROWS } else { 1 };
        // Unrolled over rows in place, the compiler would load ahead more than there are registers.
        let unrolled = if IS_PACKED { tile.steps / 4 } else { 0 };
        for _ in 0..unrolled {
            for _ in 0..4 {
                multiply_add::<S, ROWS>(&mut sums, lhs, stride, rhs);
                lhs = lhs.add(step);
                rhs = rhs.add(S::TILE_COLS);
            }
        }
        for _ in 4 * unrolled..tile.steps {
            multiply_add::<S, ROWS>(&mut sums, lhs, stride, rhs);
            lhs = lhs.add(step);
            rhs = rhs.add(S::TILE_COLS);
        }
        if S::HAS_PARTS && !tile.after.is_null() {
            for (row, sums) in sums.into_iter().enumerate() {
                let after = tile.after.add(row * S::TILE_COLS);
                S::store(after, sums[0]);
                S::store(after.add(S::LANES), sums[1]);
            }
        } else if tile.width == S::TILE_COLS {
            for (row, sums) in sums.into_iter().enumerate() {
                store::<S>(tile.out.add(row * tile.out_stride), sums, accumulate);
            }
        } else {
            for (row, sums) in sums.into_iter().enumerate() {
                let mut line = [0.0_f32; WIDEST_TILE];
                store::<S>(line.as_mut_ptr(), sums, Accumulate::Replace);
                let out = std::slice::from_raw_parts_mut(tile.out.add(row * tile.out_stride), tile.width);
                accumulate.store(out, &line);
            }
        }
    }
}

/// One step along the inner dimension.
///
/// # Safety
/// The processor has the set. The left side has a factor for each row, the right side for each column of a tile.
#[inline(always)]
unsafe fn multiply_add<S: Simd, const ROWS: usize>(
    sums: &mut [[S::Sums; 2]; ROWS],
    lhs: *const S::Factor,
    stride: usize,
    rhs: *const S::Factor,
) {
    // SAFETY: the caller guarantees the factors and the instructions.
    unsafe {
        let right = [S::load_factors(rhs), S::load_factors(rhs.add(S::LANES))];
        for (row, sums) in sums.iter_mut().enumerate() {
            let left = S::splat(*lhs.add(row * stride));
            sums[0] = S::multiply_add(left, right[0], sums[0]);
            sums[1] = S::multiply_add(left, right[1], sums[1]);
        }
    }
}

/// Writes one row of a tile.
///
/// # Safety
/// The processor has the set. The row and a bias have `TILE_COLS` numbers, and nothing else accesses the row.
#[inline(always)]
unsafe fn store<S: Simd>(out: *mut f32, sums: [S::Sums; 2], accumulate: Accumulate<'_>) {
    // SAFETY: the caller guarantees the numbers and the instructions.
    unsafe {
        let before = match accumulate {
            Accumulate::Replace => {
                S::store(out, sums[0]);
                S::store(out.add(S::LANES), sums[1]);
                return;
            }
            Accumulate::Add => out.cast_const(),
            Accumulate::Bias(bias) => bias.as_ptr(),
        };
        S::store(out, S::add(S::load(before), sums[0]));
        S::store(out.add(S::LANES), S::add(S::load(before.add(S::LANES)), sums[1]));
    }
}
