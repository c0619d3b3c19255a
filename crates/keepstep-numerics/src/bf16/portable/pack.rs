//! Rounding a part of a matrix to bfloat16 into a panel of float32 numbers of the same values.

use crate::bf16::convert::{MAGNITUDE, rounded};
use crate::vectorized;

vectorized! {
    /// `len` rows of a matrix whose rows are contiguous: `width` numbers of each, padded to `stride`. An odd
    /// last row is followed by one of zeros.
    pub(super) fn across(panel: &mut [f32], src: &[f32], src_stride: usize, width: usize, stride: usize, len: usize) {
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
    /// The same of a matrix whose columns are contiguous.
    pub(super) fn transposed(panel: &mut [f32], src: &[f32], src_stride: usize, width: usize, stride: usize, len: usize) {
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

/// Rows that are transposed at a time: what they fill stays in the nearest cache.
const BLOCK: usize = 16;

vectorized! {
    /// Row by row: `width` rows of `len` numbers each, which lie `stride` apart afterwards; `rows` rows in all.
    pub(super) fn along(
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
    /// The smallest magnitude that is not zero, less one; all bits if there is none.
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
