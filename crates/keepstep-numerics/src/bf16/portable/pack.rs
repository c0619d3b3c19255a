//! Rounds a part of a matrix to bfloat16 and packs it into a panel, as float32 numbers of the same values.

use super::panel::{COLS, LhsLayout, ROWS};
use crate::bf16::convert::{MAGNITUDE, rounded};
use crate::bf16::definition::SLICE;
use crate::matmul::matrix::Matrix;
use crate::vectorized;

/// Packs `rows` rows from `row` on, and returns their [`least_magnitude`].
pub(super) fn pack_lhs(
    panel: &mut [f32],
    layout: LhsLayout,
    lhs: &Matrix<'_>,
    row: usize,
    rows: usize,
    len: usize,
) -> u32 {
    let src = &lhs.data[row * lhs.row_stride..];
    match layout {
        LhsLayout::Columns => across(panel, src, lhs.col_stride, rows, ROWS, len),
        LhsLayout::Rows => along(panel, src, lhs.row_stride, rows, ROWS, SLICE, len),
        LhsLayout::Single if lhs.col_stride == 1 => {
            along(panel, src, lhs.row_stride, 1, 1, SLICE, len);
        }
        LhsLayout::Single => across(panel, src, lhs.col_stride, 1, 1, len),
    }
    match layout {
        LhsLayout::Rows if len < SLICE => panel
            .chunks_exact(SLICE)
            .take(rows)
            .map(|row| least_magnitude(&row[..len]))
            .fold(u32::MAX, u32::min),
        LhsLayout::Rows | LhsLayout::Columns => least_magnitude(&panel[..len * ROWS]),
        LhsLayout::Single => least_magnitude(&panel[..len]),
    }
}

/// Packs `cols` columns from `col` on, and returns their [`least_magnitude`].
pub(super) fn pack_rhs(panel: &mut [f32], rhs: &Matrix<'_>, col: usize, cols: usize, len: usize) -> u32 {
    let src = &rhs.data[col * rhs.col_stride..];
    if rhs.col_stride == 1 {
        across(panel, src, rhs.row_stride, cols, COLS, len);
    } else {
        transposed(panel, src, rhs.col_stride, cols, COLS, len);
    }
    least_magnitude(&panel[..len * COLS])
}

vectorized! {
    /// Packs `len` contiguous rows, `width` numbers of each, padded to `stride`. A row of zeros follows an odd last
    /// row.
    fn across(panel: &mut [f32], src: &[f32], src_stride: usize, width: usize, stride: usize, len: usize) {
        for (k, row) in panel.chunks_exact_mut(stride).take(len).enumerate() {
            let src = &src[k * src_stride..k * src_stride + width];
            let (inside, outside) = row.split_at_mut(width);
            for (value, src) in inside.iter_mut().zip(src) {
                *value = rounded(*src);
            }
            outside.fill(0.0);
        }
        if len % 2 == 1 {
            panel[len * stride..(len + 1) * stride].fill(0.0);
        }
    }
}

vectorized! {
    /// Packs `width` contiguous columns of `len` numbers, to the same layout as [`across`].
    fn transposed(panel: &mut [f32], src: &[f32], src_stride: usize, width: usize, stride: usize, len: usize) {
        for (block, panel) in panel.chunks_mut(BLOCK * stride).take(len.div_ceil(BLOCK)).enumerate() {
            let start = block * BLOCK;
            let len = BLOCK.min(len - start);
            for col in 0..width {
                let src = &src[col * src_stride + start..col * src_stride + start + len];
                for (row, src) in panel.chunks_exact_mut(stride).zip(src) {
                    row[col] = rounded(*src);
                }
            }
            for row in panel.chunks_exact_mut(stride).take(len) {
                row[width..].fill(0.0);
            }
        }
        if len % 2 == 1 {
            panel[len * stride..(len + 1) * stride].fill(0.0);
        }
    }
}

/// Rows that are transposed at a time. They stay in the first-level cache.
const BLOCK: usize = 16;

vectorized! {
    /// Packs `width` contiguous rows of `len` numbers, row by row. In the panel, `rows` rows lie `stride` apart.
    fn along(
        panel: &mut [f32], src: &[f32], src_stride: usize, width: usize, rows: usize, stride: usize, len: usize,
    ) {
        for (index, row) in panel.chunks_exact_mut(stride).take(rows).enumerate() {
            let (inside, outside) = row[..len.next_multiple_of(2)].split_at_mut(len);
            outside.fill(0.0);
            if index < width {
                for (value, src) in inside.iter_mut().zip(&src[index * src_stride..]) {
                    *value = rounded(*src);
                }
            } else {
                inside.fill(0.0);
            }
        }
    }
}

vectorized! {
    /// The bits of the smallest magnitude that is not zero, minus one. All bits are set if every number is zero.
    pub(super) fn least_magnitude(panel: &[f32]) -> u32 {
        let mut lanes = [u32::MAX; 16];
        let chunks = panel.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            for lane in 0..16 {
                lanes[lane] = lanes[lane].min((chunk[lane].to_bits() & MAGNITUDE).wrapping_sub(1));
            }
        }
        for value in rest {
            lanes[0] = lanes[0].min((value.to_bits() & MAGNITUDE).wrapping_sub(1));
        }
        lanes.into_iter().fold(u32::MAX, u32::min)
    }
}
