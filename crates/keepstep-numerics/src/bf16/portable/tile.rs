//! The sums of one tile. Where no sum can be tiny, a fused multiply-add of float32 is the definition's multiply-add.

use super::fused;
use super::panel::{LhsLayout, Panel, ROWS, Tile};
use super::plain::sums_by;
use crate::bf16::definition::{SLICE, multiply_add};
use crate::vectorized;

/// Computes the sums of `pairs` pairs of the slice.
pub(super) fn sums(tile: &mut Tile, layout: LhsLayout, pairs: usize, lhs: Panel<'_>, rhs: Panel<'_>) {
    let (left, right) = (lhs.factors, rhs.factors);
    match (layout, nothing_is_tiny(lhs.least, rhs.least)) {
        (LhsLayout::Rows, true) => fused::sums::<ROWS, SLICE, 1>(tile, pairs, left, right),
        (LhsLayout::Columns, true) => fused::sums::<ROWS, 1, ROWS>(tile, pairs, left, right),
        (LhsLayout::Single, true) => fused::sums::<1, 0, 1>(tile, pairs, left, right),
        (LhsLayout::Rows, false) => rows_with_tiny(tile, pairs, left, right),
        (LhsLayout::Columns, false) => columns_with_tiny(tile, pairs, left, right),
        (LhsLayout::Single, false) => single_with_tiny(tile, pairs, left, right),
    }
}

/// Reports whether every sum of these panels' products is zero or not tiny, in any order of addition.
///
/// A bfloat16 number with the exponent e is a multiple of 2^(e - 7). So all products are multiples of one power of two,
/// and so is every sum, before and after rounding: a sum that is not zero is at least that power.
fn nothing_is_tiny(left: u32, right: u32) -> bool {
    let exponent = |least: u32| least.wrapping_add(1) >> 23;
    // With biased exponents: (left - 127 - 7) + (right - 127 - 7) >= -126.
    left == u32::MAX || right == u32::MAX || exponent(left) + exponent(right) >= 142
}

vectorized! {
    fn rows_with_tiny(tile: &mut Tile, pairs: usize, lhs: &[f32], rhs: &[f32]) {
        sums_by::<ROWS, SLICE, 1>(tile, pairs, lhs, rhs, multiply_add);
    }
}

vectorized! {
    fn columns_with_tiny(tile: &mut Tile, pairs: usize, lhs: &[f32], rhs: &[f32]) {
        sums_by::<ROWS, 1, ROWS>(tile, pairs, lhs, rhs, multiply_add);
    }
}

vectorized! {
    fn single_with_tiny(tile: &mut Tile, pairs: usize, lhs: &[f32], rhs: &[f32]) {
        sums_by::<1, 0, 1>(tile, pairs, lhs, rhs, multiply_add);
    }
}
