use super::convert::rounded;
use super::definition::{SLICE, multiply_add};
use super::trials::{defined_pair, trials};
use super::{Kernel, Support, matmul, packing, run};
use crate::matmul::{Accumulate, AlignedBuffer, MatmulTask, Matrix, MatrixMut, PackTask, Packing};
use crate::testing::is_emulated;

/// The kernels that this processor can run. `cargo xtask test` reports which kernels did not run.
fn kernels() -> Vec<Kernel> {
    match Support::detect() {
        Support::Present => vec![Kernel::Portable, Kernel::Avx512],
        Support::Missing => vec![Kernel::Portable],
        Support::Differs => panic!("this processor's VDPBF16PS does not do what the definition says"),
    }
}

/// The definition, word for word.
fn defined(out: &mut [f32], stride: usize, accumulate: Accumulate<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    for row in 0..lhs.rows {
        for col in 0..rhs.cols {
            let mut total = match accumulate {
                Accumulate::Replace => None,
                Accumulate::Add => Some(out[row * stride + col]),
                Accumulate::Bias(bias) => Some(bias[col]),
            };
            for start in (0..lhs.cols).step_by(SLICE) {
                let end = lhs.cols.min(start + SLICE);
                let left = |k: usize| match k < end {
                    true => rounded(lhs.data[row * lhs.row_stride + k * lhs.col_stride]),
                    false => 0.0,
                };
                let right = |k: usize| match k < end {
                    true => rounded(rhs.data[k * rhs.row_stride + col * rhs.col_stride]),
                    false => 0.0,
                };
                let mut sum = 0.0_f32;
                for k in (start..end).step_by(2) {
                    sum = multiply_add(sum, left(k + 1), right(k + 1));
                    sum = multiply_add(sum, left(k), right(k));
                }
                total = Some(total.map_or(sum, |total| total + sum));
            }
            out[row * stride + col] = total.unwrap_or(0.0);
        }
    }
}

/// The kinds of numbers that a test multiplies.
#[derive(Debug, Clone, Copy)]
enum Numbers {
    /// Numbers such as weights and activations.
    Ordinary,
    /// Numbers so small that sums are tiny, among ordinary numbers and zeros.
    Tiny,
    /// Infinities, NaNs and the largest numbers, among ordinary ones.
    Special,
}

fn numbers(kind: Numbers, len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let mut number = move || {
        let ordinary = (next() as f32 / u32::MAX as f32 - 0.5) * 4.0;
        match (kind, next() % 16) {
            (Numbers::Ordinary, _) => ordinary,
            (Numbers::Tiny, 0) => 0.0,
            (Numbers::Tiny, 1) => -0.0,
            (Numbers::Tiny, 2) => ordinary * 1e-40,
            (Numbers::Tiny, 3) => f32::MIN_POSITIVE * ordinary.signum(),
            (Numbers::Tiny, 4..8) => ordinary * f32::from_bits(0x1F80_0000),
            (Numbers::Tiny, _) => ordinary * f32::from_bits(0x2080_0000 + (next() % 4) * 0x0080_0000),
            (Numbers::Special, 0) if next() % 64 == 0 => f32::INFINITY * ordinary.signum(),
            (Numbers::Special, 1) if next() % 64 == 0 => f32::NAN,
            (Numbers::Special, 2) => f32::MAX * ordinary.signum(),
            (Numbers::Special, _) => ordinary,
        }
    };
    (0..len).map(|_| number()).collect()
}

fn check(kind: Numbers, rows: usize, cols: usize, inner: usize) {
    let pad = 3;
    let matrix = |data, rows, cols, transposed: bool| {
        if transposed {
            Matrix::strided(data, cols, rows, rows + pad).transposed()
        } else {
            Matrix::strided(data, rows, cols, cols + pad)
        }
    };
    let left = numbers(kind, (rows + pad) * (inner + pad), 1);
    let right = numbers(kind, (cols + pad) * (inner + pad), 2);
    let before = numbers(kind, rows * (cols + pad), 3);
    let bias = numbers(kind, cols, 6);
    let mut buffer = AlignedBuffer::new();
    for layout in 0..4 {
        let lhs = matrix(&left, rows, inner, layout & 1 == 1);
        let rhs = matrix(&right, inner, cols, layout & 2 == 2);
        for accumulate in [Accumulate::Replace, Accumulate::Add, Accumulate::Bias(&bias)] {
            let mut expected = before.clone();
            defined(&mut expected, cols + pad, accumulate, lhs, rhs);
            for kernel in kernels() {
                let mut out = before.clone();
                matmul(kernel, MatrixMut::strided(&mut out, rows, cols, cols + pad), accumulate, lhs, rhs);
                let same = |(one, other): (&f32, &f32)| {
                    one.to_bits() == other.to_bits() || (one.is_nan() && other.is_nan())
                };
                assert!(
                    out.iter().zip(&expected).all(same),
                    "{rows} x {inner} x {cols}, layout {layout}, {kernel:?}, {kind:?}"
                );
                let Some(packing) = packing(kernel) else { continue };
                buffer.grow(Packing::max_len(inner, cols));
                let mut tasks = Vec::new();
                let mut out = before.clone();
                let task = MatmulTask::new(
                    MatrixMut::strided(&mut out, rows, cols, cols + pad),
                    accumulate,
                    lhs,
                    rhs,
                );
                let packed = packing.pack(buffer.as_mut_floats(), rhs, &mut tasks);
                tasks.into_iter().for_each(PackTask::run);
                run(kernel, task.with_packed(Some(&packed)));
                assert!(
                    out.iter().zip(&expected).all(same),
                    "{rows} x {inner} x {cols}, layout {layout}, {kernel:?}, {kind:?}, packed first"
                );
            }
        }
    }
}

/// Every layout, edge shapes, few rows, no multiple of a tile, an odd inner dimension, and several slices.
#[test]
fn every_element_is_the_defined_chain() {
    let edges: &[usize] = if is_emulated() { &[1, 7, 17] } else { &[0, 1, 2, 3, 4, 5, 6, 13, 33] };
    for kind in [Numbers::Ordinary, Numbers::Tiny, Numbers::Special] {
        for &rows in edges {
            for &cols in edges {
                for inner in if is_emulated() { &[1, 8][..] } else { &[0, 1, 2, 3, 17] } {
                    let inner = *inner;
                    check(kind, rows, cols, inner);
                }
            }
        }
        for inner in if is_emulated() { &[257][..] } else { &[255, 256, 257, 511, 512, 700] } {
            for (rows, cols) in [(1, 1), (1, 50), (50, 1), (3, 2), (16, 16), (25, 40)] {
                check(kind, rows, cols, *inner);
            }
        }
    }
}

#[test]
fn on_any_number_of_threads() {
    let shapes: &[(usize, usize, usize)] = if is_emulated() {
        &[(40, 45, 40)]
    } else {
        &[(100, 70, 300), (5, 300, 300), (300, 5, 90), (129, 129, 33)]
    };
    for threads in if is_emulated() { 3..4 } else { 1..5 } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            shapes.iter().for_each(|&(rows, cols, inner)| check(Numbers::Ordinary, rows, cols, inner))
        });
    }
}

/// More rows and columns than are packed at a time.
#[test]
fn in_several_parts() {
    if is_emulated() {
        return;
    }
    check_once(3, 4100, 2);
    check_once(700, 520, 1600);
}

fn check_once(rows: usize, cols: usize, inner: usize) {
    let (left, right) =
        (numbers(Numbers::Ordinary, rows * inner, 4), numbers(Numbers::Ordinary, inner * cols, 5));
    let (lhs, rhs) = (Matrix::new(&left, rows, inner), Matrix::new(&right, inner, cols));
    let mut expected = vec![0.0; rows * cols];
    defined(&mut expected, cols, Accumulate::Replace, lhs, rhs);
    for kernel in kernels() {
        let mut out = vec![0.0; rows * cols];
        matmul(kernel, MatrixMut::new(&mut out, rows, cols), Accumulate::Replace, lhs, rhs);
        assert!(out == expected, "{rows} x {inner} x {cols}, {kernel:?}");
    }
}

/// The trials decide whether a processor's instruction does what is defined, so they must detect every other rounding.
#[test]
fn the_trials_tell_other_instructions_apart() {
    let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    let fused = |sum: f32, left: u16, right: u16| value(left).mul_add(value(right), sum);
    let flushed =
        |result: f32| if result.abs() < f32::MIN_POSITIVE { 0.0_f32.copysign(result) } else { result };
    type Other<'a> = (&'a str, &'a dyn Fn(f32, [u16; 2], [u16; 2]) -> f32);
    let others: [Other<'_>; 5] = [
        ("the first member first", &|sum, left, right| {
            defined_pair(sum, [left[1], left[0]], [right[1], right[0]])
        }),
        ("denormal results", &|sum, left, right| fused(fused(sum, left[1], right[1]), left[0], right[0])),
        ("tiny before rounding", &|sum, left, right| {
            flushed(fused(flushed(fused(sum, left[1], right[1])), left[0], right[0]))
        }),
        ("both products first", &|sum, left, right| {
            let products = value(left[0]) * value(right[0]) + value(left[1]) * value(right[1]);
            flushed(sum + flushed(products))
        }),
        ("one rounding for both", &|sum, left, right| {
            let exact = |index: usize| f64::from(value(left[index])) * f64::from(value(right[index]));
            flushed((f64::from(sum) + (exact(0) + exact(1))) as f32)
        }),
    ];
    for (name, other) in others {
        let differs = trials().into_iter().any(|trial| {
            let (one, two) =
                (other(trial.sum, trial.left, trial.right), defined_pair(trial.sum, trial.left, trial.right));
            one.to_bits() != two.to_bits() && !(one.is_nan() && two.is_nan())
        });
        assert!(differs, "{name}");
    }
}

/// The instruction itself, on every trial. Where the processor does not have it, the test prints so.
#[test]
fn the_instruction_does_what_is_defined() {
    #[cfg(target_arch = "x86_64")]
    if Support::detect() != Support::Missing {
        for trial in trials() {
            let found = super::avx512::pair(trial.sum, trial.left, trial.right);
            let expected = defined_pair(trial.sum, trial.left, trial.right);
            let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            assert!(same, "{trial:?}: {found:e} and {expected:e}");
        }
        println!("AVX512-BF16: its kernel was run");
        return;
    }
    println!("AVX512-BF16: this processor lacks it, its kernel was NOT run");
}
