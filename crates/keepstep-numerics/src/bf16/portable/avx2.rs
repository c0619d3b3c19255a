//! The same tiles with AVX2 and FMA, where no sum can be tiny.

use super::tile::{COLS, Tile};
use std::arch::x86_64::{
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

/// Columns of one register.
const LANES: usize = 8;

/// The sums of one tile; see [`super::tile::sums`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn sums<const ROWS: usize, const LHS_ROW: usize, const LHS_K: usize>(
    tile: &mut Tile,
    pairs: usize,
    lhs: &[f32],
    rhs: &[f32],
) {
    assert!(pairs > 0 && (ROWS - 1) * LHS_ROW + (2 * pairs - 1) * LHS_K < lhs.len(), "a whole left panel");
    assert!(2 * pairs * COLS <= rhs.len(), "a whole right panel");
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for pair in 0..pairs {
        for half in [1, 0] {
            let k = 2 * pair + half;
            // SAFETY: below `2 * pairs * COLS`.
            let right = unsafe {
                let start = rhs.as_ptr().add(k * COLS);
                [_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(LANES))]
            };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: within the panel, as asserted.
                let left = _mm256_set1_ps(unsafe { *lhs.get_unchecked(row * LHS_ROW + k * LHS_K) });
                sums[0] = _mm256_fmadd_ps(left, right[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(left, right[1], sums[1]);
            }
        }
    }
    for (row, sums) in tile.iter_mut().zip(&sums) {
        // SAFETY: a row has sixteen elements.
        unsafe {
            _mm256_storeu_ps(row.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(row.as_mut_ptr().add(LANES), sums[1]);
        }
    }
}
