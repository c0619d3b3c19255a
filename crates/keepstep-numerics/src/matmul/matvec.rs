//! A matrix times a vector, with the bits of a [`matmul`](super::matmul) of one row: the scores of one query.

use super::definition::SLICE;
use super::prefetch::prefetch_numbers;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::simd::SimdF32;

/// Computes `out = matrix · x`: the dot product of `x` with each of the matrix's `out.len()` rows, which begin `stride`
/// apart.
pub fn matvec(out: &mut [f32], x: &[f32], matrix: &[f32], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if crate::vectorized::has_avx2_fma() {
        // SAFETY: the processor has AVX2 and FMA.
        return unsafe { avx2(out, x, matrix, stride) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every 64-bit ARM processor has NEON.
    return unsafe { neon(out, x, matrix, stride) };
    #[cfg(not(target_arch = "aarch64"))]
    chains(out, x, matrix, stride);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(out: &mut [f32], x: &[f32], matrix: &[f32], stride: usize) {
    // SAFETY: this function runs only where the processor has AVX2 and FMA.
    unsafe { transposing::<super::avx::Avx2, 2>(out, x, matrix, stride) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon(out: &mut [f32], x: &[f32], matrix: &[f32], stride: usize) {
    // SAFETY: this function runs only where the processor has NEON.
    unsafe { transposing::<super::neon::Neon, 4>(out, x, matrix, stride) }
}

/// The definition: one chain for each row.
fn chains(out: &mut [f32], x: &[f32], matrix: &[f32], stride: usize) {
    for (out, row) in out.iter_mut().zip(matrix.chunks(stride)) {
        for (slice, (x, row)) in x.chunks(SLICE).zip(row.chunks(SLICE)).enumerate() {
            let sum = x.iter().zip(row).fold(0.0_f32, |sum, (x, row)| x.mul_add(*row, sum));
            *out = if slice == 0 { sum } else { *out + sum };
        }
    }
}

/// Computes `CHAINS` registers of rows at a time. Square blocks are transposed: a register then holds one column of as
/// many rows as it has lanes, and each lane is the chain of one row.
///
/// # Safety
/// The processor has the set.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn transposing<S: SimdF32, const CHAINS: usize>(
    out: &mut [f32],
    x: &[f32],
    matrix: &[f32],
    stride: usize,
) {
    let len = x.len();
    assert!(
        out.is_empty() || (out.len() - 1) * stride + len <= matrix.len(),
        "the matrix reaches beyond its data"
    );
    let group = S::LANES * CHAINS;
    let whole = if len.is_multiple_of(S::LANES) { out.len() / group * group } else { 0 };
    let (in_groups, rest) = out.split_at_mut(whole);
    for (index, out) in in_groups.chunks_exact_mut(group).enumerate() {
        let rows = &matrix[index * group * stride..];
        for (slice, x) in x.chunks(SLICE).enumerate() {
            // SAFETY: the caller guarantees the instructions.
            let mut sums = unsafe { [S::zero(); CHAINS] };
            for k in (0..x.len()).step_by(S::LANES) {
                if stride == len {
                    // As many numbers of the next group as this step takes from this one.
                    let next = (index + 1) * group * len + (slice * SLICE + k) * group;
                    prefetch_numbers(matrix, next, group * S::LANES);
                }
                // SAFETY: the numbers from `slice * SLICE + k` on, as many as a register has, of the group's rows lie
                // within the matrix, as asserted. The caller guarantees the instructions.
                unsafe {
                    let first = rows.as_ptr().add(slice * SLICE + k);
                    let mut columns = [S::load_transposed(first, stride); CHAINS];
                    for (chain, columns) in columns.iter_mut().enumerate().skip(1) {
                        *columns = S::load_transposed(first.add(chain * S::LANES * stride), stride);
                    }
                    for (column, &x) in x[k..k + S::LANES].iter().enumerate() {
                        let x = S::splat(x);
                        for chain in 0..CHAINS {
                            sums[chain] = S::multiply_add(x, columns[chain].as_ref()[column], sums[chain]);
                        }
                    }
                }
            }
            for (out, sum) in out.chunks_exact_mut(S::LANES).zip(sums) {
                // SAFETY: `out` has as many numbers as a register. The caller guarantees the instructions.
                unsafe {
                    let sum = if slice == 0 { sum } else { S::add(S::load(out.as_ptr()), sum) };
                    S::store(out.as_mut_ptr(), sum);
                }
            }
        }
    }
    if !rest.is_empty() {
        chains(rest, x, &matrix[whole * stride..], stride);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Accumulate, Matrix, MatrixMut, matmul};
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

    /// Whole and in parts, the result is the row of a matmul of many rows.
    #[test]
    fn a_row_of_a_matmul() {
        for inner in [1, 3, 7, 8, 16, 39, 384, 512, 513, 1024, 1537] {
            for cols in [1, 5, 16, 17, 40, 100, 1030] {
                let (x, matrix, before) =
                    (numbers(inner * 3, 1), numbers(inner * cols, 2), numbers(cols * 3, 3));
                let expected = |accumulate: Accumulate<'_>, right: Matrix<'_>| {
                    let mut out = before.clone();
                    matmul(MatrixMut::new(&mut out, 3, cols), accumulate, Matrix::new(&x, 3, inner), right);
                    out[cols..2 * cols].to_vec()
                };
                let (row, before) = (&x[inner..2 * inner], &before[cols..2 * cols]);

                let expected = expected(Accumulate::Replace, Matrix::new(&matrix, cols, inner).transposed());
                for part in [cols, 19] {
                    let mut out = before.to_vec();
                    for (index, out) in out.chunks_mut(part).enumerate() {
                        matvec(out, row, &matrix[index * part * inner..], inner);
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
