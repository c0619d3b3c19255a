//! Every product against the definition, word for word, whichever code computes it.

use super::aligned::Lines;
use super::packed::{Packing, Piece, Room};
use super::*;

/// The definition, word for word.
fn defined(out: &mut [f32], stride: usize, into: Into<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    for row in 0..lhs.rows {
        for col in 0..rhs.cols {
            let mut total = match into {
                Into::Replace => None,
                Into::Add => Some(out[row * stride + col]),
                Into::Bias(bias) => Some(bias[col]),
            };
            for start in (0..lhs.cols).step_by(SLICE) {
                let mut sum = 0.0_f32;
                for k in start..lhs.cols.min(start + SLICE) {
                    let left = lhs.data[row * lhs.row_stride + k * lhs.col_stride];
                    let right = rhs.data[k * rhs.row_stride + col * rhs.col_stride];
                    sum = left.mul_add(right, sum);
                }
                total = Some(total.map_or(sum, |total| total + sum));
            }
            out[row * stride + col] = total.unwrap_or(0.0);
        }
    }
}

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as f32 / u32::MAX as f32 - 0.5) * 4.0
        })
        .collect()
}

fn check(rows: usize, cols: usize, inner: usize) {
    let pad = 3;
    let matrix = |data, rows, cols, transposed: bool| {
        if transposed {
            Matrix::strided(data, cols, rows, rows + pad).transposed()
        } else {
            Matrix::strided(data, rows, cols, cols + pad)
        }
    };
    let left = numbers((rows + pad) * (inner + pad), 1);
    let right = numbers((cols + pad) * (inner + pad), 2);
    let before = numbers(rows * (cols + pad), 3);
    let bias = numbers(cols, 4);
    for layout in 0..4 {
        let lhs = matrix(&left, rows, inner, layout & 1 == 1);
        let rhs = matrix(&right, inner, cols, layout & 2 == 2);
        for into in [Into::Replace, Into::Add, Into::Bias(&bias)] {
            let mut expected = before.clone();
            defined(&mut expected, cols + pad, into, lhs, rhs);
            let check = |what: &str, compute: &dyn Fn(MatrixMut<'_>)| {
                let mut out = before.clone();
                compute(MatrixMut::strided(&mut out, rows, cols, cols + pad));
                let same = out.iter().zip(&expected).all(|(one, other)| one.to_bits() == other.to_bits());
                assert!(same, "{rows} x {inner} x {cols}, layout {layout}, {into:?}, {what}");
            };
            check("serial", &|out| serial_product(out, into, lhs, rhs));
            check("parallel", &|out| product(out, into, lhs, rhs));
            let mut lines = Lines::new();
            for backend in backends() {
                check(&format!("{backend:?}"), &|out| {
                    // SAFETY: the result is borrowed, and this processor has what the backend needs.
                    unsafe { Task::new(out, lhs, rhs).run(into, backend) };
                });
                let Some(packing) = packing(backend) else { continue };
                lines.grow(Packing::max_len(inner, cols));
                let room = Room::new(&mut lines);
                let mut pieces = Vec::new();
                // SAFETY: there is room, and it is read below, after the pieces are done.
                let packed = unsafe { packing.pack(&room, 0, rhs, &mut pieces) };
                pieces.into_iter().for_each(Piece::pack);
                check(&format!("{backend:?}, packed before"), &|out| {
                    let task = Task { packed: Some(packed), ..Task::new(out, lhs, rhs) };
                    // SAFETY: as above.
                    unsafe { task.run(into, backend) };
                });
            }
        }
    }
}

/// How a backend packs, if it does.
fn packing(backend: Backend) -> Option<Packing> {
    match backend {
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => Some(Packing::of::<simd::Avx512>()),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 => Some(Packing::of::<simd::Avx2>()),
        _ => None,
    }
}

/// All that this processor can run: each is the fastest of some other.
fn backends() -> Vec<Backend> {
    #[cfg(target_arch = "x86_64")]
    if !crate::testing::is_emulated() && crate::vectorized::is_fast() {
        let mut all = vec![Backend::Loops, Backend::Avx2, Backend::Gemm];
        if std::arch::is_x86_feature_detected!("avx512f") {
            all.push(Backend::Avx512);
        }
        return all;
    }
    vec![Backend::of_processor()]
}

/// Every layout, edge shapes, one row or column, no multiple of a vector, and slices of the inner dimension.
#[test]
fn every_element_is_the_defined_chain() {
    // An emulated processor takes minutes where this one takes a second: there, a part of the shapes.
    let emulated = crate::testing::is_emulated();
    let edges: &[usize] =
        if emulated { &[1, 2, 9, 16, 33] } else { &[0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 65] };
    for &rows in edges {
        for &cols in edges {
            for inner in [0, 1, 2, 3, 8, 17, 64] {
                check(rows, cols, inner);
            }
        }
    }
    for inner in if emulated { &[512, 513, 1025][..] } else { &[511, 512, 513, 1024, 1025, 1700] } {
        let inner = *inner;
        for (rows, cols) in [(1, 1), (1, 50), (50, 1), (2, 3), (16, 16), (17, 40), (70, 130)] {
            if emulated && rows * cols > 700 {
                continue;
            }
            check(rows, cols, inner);
        }
    }
}

#[test]
fn on_any_number_of_threads() {
    for threads in if crate::testing::is_emulated() { 3..4 } else { 1..5 } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            for (rows, cols, inner) in [(100, 70, 600), (5, 300, 700), (300, 5, 90), (129, 129, 33)] {
                check(rows, cols, inner);
            }
        });
    }
}
