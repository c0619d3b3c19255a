//! One row times a matrix, as [`product`](super::product) defines it, for decoding: there the matrix is read once and
//! nothing is used again, so that memory's speed is the limit, and what counts is to read it in order.
//!
//! Both forms compute a part of the result's columns; whoever shares out parts shares out no sum.

use crate::vectorized;

/// The same slices of the inner dimension.
const SLICE: usize = super::SLICE;

/// Columns whose sums are kept at a time, in the nearest cache.
const PANEL: usize = 1024;

/// Rows of the matrix that one pass over the sums takes.
const ROWS: usize = 8;

/// `out += x · matrix[.., first..first + out.len()]`, the matrix in rows `stride` apart.
pub fn add_row_by_matrix(out: &mut [f32], x: &[f32], matrix: &[f32], stride: usize, first: usize) {
    for (panel, out) in out.chunks_mut(PANEL).enumerate() {
        let first = first + panel * PANEL;
        for (slice, x) in x.chunks(SLICE).enumerate() {
            add_slice(out, x, &matrix[slice * SLICE * stride + first..], stride);
        }
    }
}

vectorized! {
    /// One slice of the inner dimension of one panel.
    fn add_slice(out: &mut [f32], x: &[f32], matrix: &[f32], stride: usize) {
        let mut sums = [0.0_f32; PANEL];
        let sums = &mut sums[..out.len()];
        let len = sums.len();
        for (group, x) in x.chunks(ROWS).enumerate() {
            let row = |index: usize| &matrix[(group * ROWS + index) * stride..][..len];
            if let Some(x) = x.first_chunk::<ROWS>() {
                for ahead in 0..ROWS {
                    prefetch(matrix, (group * ROWS + ROWS * AHEAD + ahead) * stride, len);
                }
                let rows: [&[f32]; ROWS] = std::array::from_fn(row);
                for col in 0..len {
                    let mut sum = sums[col];
                    for index in 0..ROWS {
                        sum = x[index].mul_add(rows[index][col], sum);
                    }
                    sums[col] = sum;
                }
            } else {
                for (index, &x) in x.iter().enumerate() {
                    for (sum, right) in sums.iter_mut().zip(row(index)) {
                        *sum = x.mul_add(*right, *sum);
                    }
                }
            }
        }
        for (out, sum) in out.iter_mut().zip(sums.iter()) {
            *out += sum;
        }
    }
}

/// Groups of rows that are asked for ahead: short pieces of far-apart rows are more than processors foresee.
const AHEAD: usize = 3;

/// Asks for some numbers of a matrix before they are needed, if they exist.
#[inline(always)]
fn prefetch(matrix: &[f32], start: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if start + len <= matrix.len() {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in (start..start + len).step_by(16) {
            // SAFETY: a hint, within the matrix.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(matrix.as_ptr().add(line).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (matrix, start, len);
}

/// `out = x · rowsᵀ`: the product of `x` with each of `out.len()` rows, which begin `stride` apart.
pub fn row_by_rows(out: &mut [f32], x: &[f32], rows: &[f32], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if crate::vectorized::is_fast() {
        // SAFETY: the processor has AVX2 and FMA.
        return unsafe { fast::row_by_rows(out, x, rows, stride) };
    }
    chains(out, x, rows, stride);
}

/// The definition: `stride` from row to row.
fn chains(out: &mut [f32], x: &[f32], rows: &[f32], stride: usize) {
    for (out, row) in out.iter_mut().zip(rows.chunks(stride)) {
        for (slice, (x, row)) in x.chunks(SLICE).zip(row.chunks(SLICE)).enumerate() {
            let sum = x.iter().zip(row).fold(0.0_f32, |sum, (x, row)| x.mul_add(*row, sum));
            *out = if slice == 0 { sum } else { *out + sum };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod fast {
    use super::{SLICE, prefetch};
    use std::arch::x86_64::*;

    /// Rows side by side in the lanes of a vector.
    const LANES: usize = 8;
    /// Vectors whose chains run side by side.
    const CHAINS: usize = 2;

    /// Eight products at a time, each the chain that it is defined to be: the rows are turned, eight by eight, so that a
    /// vector holds one column of eight rows.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn row_by_rows(out: &mut [f32], x: &[f32], rows: &[f32], stride: usize) {
        let len = x.len();
        assert!(
            out.is_empty() || (out.len() - 1) * stride + len <= rows.len(),
            "a matrix that reaches beyond its data"
        );
        let group = LANES * CHAINS;
        let whole = if len.is_multiple_of(LANES) { out.len() / group * group } else { 0 };
        let (fast, rest) = out.split_at_mut(whole);
        for (index, out) in fast.chunks_exact_mut(group).enumerate() {
            let all = rows;
            let rows = &rows[index * group * stride..];
            for (slice, x) in x.chunks(SLICE).enumerate() {
                let mut sums = [_mm256_setzero_ps(); CHAINS];
                for k in (0..x.len()).step_by(LANES) {
                    if stride == len {
                        // Of the next group, as many numbers as this step takes from this one.
                        prefetch(all, (index + 1) * group * len + (slice * SLICE + k) * group, group * LANES);
                    }
                    let columns: [[__m256; LANES]; CHAINS] = std::array::from_fn(|chain| {
                        // SAFETY: eight values from `slice * SLICE + k` on of eight of the group's rows lie within `rows`.
                        unsafe {
                            turned(rows.as_ptr().add(chain * LANES * stride + slice * SLICE + k), stride)
                        }
                    });
                    for (column, &x) in x[k..k + LANES].iter().enumerate() {
                        let x = _mm256_set1_ps(x);
                        for chain in 0..CHAINS {
                            sums[chain] = _mm256_fmadd_ps(x, columns[chain][column], sums[chain]);
                        }
                    }
                }
                for (out, sum) in out.chunks_exact_mut(LANES).zip(sums) {
                    // SAFETY: `out` has eight values.
                    unsafe {
                        let before = _mm256_loadu_ps(out.as_ptr());
                        let sum = if slice == 0 { sum } else { _mm256_add_ps(before, sum) };
                        _mm256_storeu_ps(out.as_mut_ptr(), sum);
                    }
                }
            }
        }
        if !rest.is_empty() {
            super::chains(rest, x, &rows[whole * stride..], stride);
        }
    }

    /// Eight rows of eight values, `stride` apart, as eight columns.
    ///
    /// # Safety
    /// The rows can be read.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn turned(first: *const f32, stride: usize) -> [__m256; LANES] {
        // SAFETY: promised by the caller.
        let r: [__m256; LANES] =
            std::array::from_fn(|row| unsafe { _mm256_loadu_ps(first.add(row * stride)) });
        let (t0, t1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
        let (t2, t3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
        let (t4, t5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
        let (t6, t7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
        let (a0, a1) = (_mm256_shuffle_ps::<0x44>(t0, t2), _mm256_shuffle_ps::<0xEE>(t0, t2));
        let (a2, a3) = (_mm256_shuffle_ps::<0x44>(t1, t3), _mm256_shuffle_ps::<0xEE>(t1, t3));
        let (b0, b1) = (_mm256_shuffle_ps::<0x44>(t4, t6), _mm256_shuffle_ps::<0xEE>(t4, t6));
        let (b2, b3) = (_mm256_shuffle_ps::<0x44>(t5, t7), _mm256_shuffle_ps::<0xEE>(t5, t7));
        [
            _mm256_permute2f128_ps::<0x20>(a0, b0),
            _mm256_permute2f128_ps::<0x20>(a1, b1),
            _mm256_permute2f128_ps::<0x20>(a2, b2),
            _mm256_permute2f128_ps::<0x20>(a3, b3),
            _mm256_permute2f128_ps::<0x31>(a0, b0),
            _mm256_permute2f128_ps::<0x31>(a1, b1),
            _mm256_permute2f128_ps::<0x31>(a2, b2),
            _mm256_permute2f128_ps::<0x31>(a3, b3),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Into, Matrix, MatrixMut, product};
    use super::*;

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn same(one: &[f32], other: &[f32]) -> bool {
        one.iter().zip(other).all(|(one, other)| one.to_bits() == other.to_bits())
    }

    /// Whole and in parts, it is the row of a product of many rows.
    #[test]
    fn a_row_of_a_product() {
        for inner in [1, 3, 7, 8, 16, 39, 384, 512, 513, 1024, 1537] {
            for cols in [1, 5, 16, 17, 40, 100, 1030] {
                let (x, matrix, before) =
                    (numbers(inner * 3, 1), numbers(inner * cols, 2), numbers(cols * 3, 3));
                let expected = |into: Into<'_>, right: Matrix<'_>| {
                    let mut out = before.clone();
                    product(MatrixMut::new(&mut out, 3, cols), into, Matrix::new(&x, 3, inner), right);
                    out[cols..2 * cols].to_vec()
                };
                let (row, before) = (&x[inner..2 * inner], &before[cols..2 * cols]);

                let expected_added = expected(Into::Add, Matrix::new(&matrix, inner, cols));
                for part in [cols, 7] {
                    let mut out = before.to_vec();
                    for (index, out) in out.chunks_mut(part).enumerate() {
                        add_row_by_matrix(out, row, &matrix, cols, index * part);
                    }
                    assert!(same(&out, &expected_added), "{inner} x {cols} in parts of {part}");
                }

                let expected = expected(Into::Replace, Matrix::new(&matrix, cols, inner).transposed());
                for part in [cols, 19] {
                    let mut out = before.to_vec();
                    for (index, out) in out.chunks_mut(part).enumerate() {
                        row_by_rows(out, row, &matrix[index * part * inner..], inner);
                    }
                    assert!(same(&out, &expected), "{inner} by {cols} rows in parts of {part}");
                }
                let mut out = before.to_vec();
                chains(&mut out, row, &matrix, inner);
                assert!(same(&out, &expected), "{inner} by {cols} rows, word for word");
            }
        }
    }
}
