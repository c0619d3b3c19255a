//! Every matmul against the definition, word for word, whichever code computes it.

use super::backend::Backend;
use super::definition::reference;
use super::*;
use crate::testing::is_emulated;

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
    let width = if cols < 48 { 1 + cols / 3 } else { panel_width(cols, 1 + inner % 4) };
    let in_panels = {
        let columns = matrix(&right, inner, cols, true);
        let columns = (0..cols).flat_map(|col| &columns.data[col * columns.col_stride..][..inner]);
        let mut columns: Vec<f32> = columns.copied().collect();
        arrange_columns_in_panels(&mut columns, inner, width);
        columns
    };
    for layout in 0..4 {
        let lhs = matrix(&left, rows, inner, layout & 1 == 1);
        let rhs = matrix(&right, inner, cols, layout & 2 == 2);
        for accumulate in [Accumulate::Replace, Accumulate::Add, Accumulate::Bias(&bias)] {
            let mut expected = before.clone();
            reference(&mut expected, cols + pad, accumulate, lhs, rhs);
            let check = |what: &str, compute: &dyn Fn(MatrixMut<'_>)| {
                let mut out = before.clone();
                compute(MatrixMut::strided(&mut out, rows, cols, cols + pad));
                let same = out.iter().zip(&expected).all(|(one, other)| one.to_bits() == other.to_bits());
                assert!(same, "{rows} x {inner} x {cols}, layout {layout}, {accumulate:?}, {what}");
            };
            check("serial", &|out| serial_matmul(out, accumulate, lhs, rhs));
            check("parallel", &|out| matmul(out, accumulate, lhs, rhs));
            if layout & 2 == 2 {
                let panels = Panels::new(&in_panels, inner, cols, width);
                check("parallel, panels", &|out| matmul_panels(out, accumulate, lhs, panels));
            }
            let mut buffer = AlignedBuffer::new();
            for backend in backends() {
                check(&format!("{backend:?}"), &|out| {
                    MatmulTask::new(out, accumulate, lhs, rhs).run_with(backend);
                });
                check(&format!("{backend:?}, streamed"), &|out| {
                    for task in MatmulTask::split_columns(out, accumulate, lhs, rhs, 37) {
                        task.run_streamed_with(backend);
                    }
                });
                if layout & 2 == 2 {
                    check(&format!("{backend:?}, panels"), &|out| {
                        let panels = Panels::new(&in_panels, inner, cols, width);
                        for task in MatmulTask::split_panels(out, accumulate, lhs, panels) {
                            task.run_streamed_with(backend);
                        }
                    });
                }
                let Some(packing) = backend.packing() else { continue };
                buffer.grow(Packing::max_len(inner, cols));
                let mut tasks = Vec::new();
                let packed = packing.pack(buffer.as_mut_floats(), rhs, &mut tasks);
                tasks.into_iter().for_each(PackTask::run);
                check(&format!("{backend:?}, packed first"), &|out| {
                    let task = MatmulTask::new(out, accumulate, lhs, rhs);
                    task.with_packed(Some(&packed)).run_with(backend);
                });
            }
        }
    }
}

/// Packs a matrix, and gives it to a matmul whose right side begins `shift` numbers later.
fn pack_and_use(packing: Packing, shift: usize, are_tasks_run: bool) {
    let numbers = [1.0; 50];
    let matrix = |start: usize| Matrix::new(&numbers[start..start + 49], 7, 7);
    let mut buffer = AlignedBuffer::new();
    buffer.grow(Packing::max_len(7, 7));
    let mut tasks = Vec::new();
    let packed = packing.pack(buffer.as_mut_floats(), matrix(0), &mut tasks);
    if are_tasks_run {
        tasks.into_iter().for_each(PackTask::run);
    }
    let mut out = vec![0.0; 49];
    let out = MatrixMut::new(&mut out, 7, 7);
    MatmulTask::new(out, Accumulate::Replace, matrix(0), matrix(shift)).with_packed(Some(&packed)).run();
}

#[test]
fn only_the_matrix_that_was_packed_is_read_and_only_after_its_tasks() {
    let Some(packing) = Backend::detect().packing() else { return };
    let works = |shift, are_tasks_run| {
        std::panic::catch_unwind(|| pack_and_use(packing, shift, are_tasks_run)).is_ok()
    };
    assert!(works(0, true));
    assert!(!works(1, true), "another matrix");
    assert!(!works(0, false), "not packed yet");
}

/// All backends that this processor can run. Each is the fastest of some other processor.
fn backends() -> Vec<Backend> {
    let detected = Backend::detect();
    if is_emulated() && cfg!(target_arch = "x86_64") {
        return vec![detected];
    }
    let mut all = vec![Backend::Loops, Backend::Gemm];
    #[cfg(target_arch = "x86_64")]
    if detected == Backend::Avx512 && crate::vectorized::has_avx2_fma() {
        all.push(Backend::Avx2);
    }
    if detected != Backend::Loops {
        all.push(detected);
    }
    all
}

/// Every layout, edge shapes, one row or column, no multiple of a vector, and several slices.
#[test]
fn every_element_is_the_defined_chain() {
    // An emulated processor takes minutes where this one takes a second, so it checks fewer shapes.
    let emulated = is_emulated();
    let edges: &[usize] =
        if emulated { &[1, 2, 9, 16, 33] } else { &[0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 65] };
    for &rows in edges {
        for &cols in edges {
            for inner in [0, 1, 2, 3, 8, 17, 64] {
                check(rows, cols, inner);
            }
        }
    }
    for (rows, cols) in [(1, 4200), (3, 1500), (20, 300)] {
        check(rows, cols, 20);
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

/// A triangle saves work and changes no element that is used.
#[test]
fn triangles_give_the_same_elements() {
    let (cols, pad) = (33, 3);
    for size in if is_emulated() { &[17, 64][..] } else { &[1, 5, 6, 17, 63, 64, 65, 130, 513, 600] } {
        let size = *size;
        let right = numbers(size * cols, 2);
        let before = numbers(size * (size + cols + pad), 3);
        for (triangle, transposed) in [Triangle::Result, Triangle::LowerLeft, Triangle::UpperLeft]
            .into_iter()
            .flat_map(|triangle| [(triangle, false), (triangle, true)])
        {
            let is_result = triangle == Triangle::Result;
            let mut left = numbers(size * size, 1);
            for row in 0..size {
                let zeros = match triangle {
                    Triangle::LowerLeft => row + 1..size,
                    Triangle::UpperLeft => 0..row,
                    Triangle::None | Triangle::Result => 0..0,
                };
                for col in zeros {
                    left[if transposed { col * size + row } else { row * size + col }] = 0.0;
                }
            }
            let (lhs, rhs) = if is_result {
                (Matrix::new(&right, size, cols), Matrix::new(&right, size, cols).transposed())
            } else {
                (Matrix::new(&left, size, size), Matrix::new(&right, size, cols))
            };
            let lhs = if transposed && !is_result { lhs.transposed() } else { lhs };
            let (width, stride) = (rhs.cols, rhs.cols + pad);
            for accumulate in [Accumulate::Replace, Accumulate::Add] {
                let mut expected = before.clone();
                reference(&mut expected, stride, accumulate, lhs, rhs);
                for backend in backends() {
                    let mut out = before.clone();
                    let result = MatrixMut::strided(&mut out, size, width, stride);
                    let task = MatmulTask::new(result, accumulate, lhs, rhs);
                    task.with_triangle(triangle).run_with(backend);
                    for (place, (found, expected)) in out.iter().zip(&expected).enumerate() {
                        let (row, col) = (place / stride, place % stride);
                        let is_used = !is_result || col <= row || col >= width || row >= size;
                        let same = found.to_bits() == expected.to_bits();
                        assert!(same || !is_used, "{size}, {triangle:?}, {backend:?}: {row}, {col}");
                    }
                }
            }
        }
    }
}

#[test]
fn on_any_number_of_threads() {
    for threads in if is_emulated() { 3..4 } else { 1..5 } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            for (rows, cols, inner) in [(100, 70, 600), (5, 300, 700), (300, 5, 90), (129, 129, 33)] {
                check(rows, cols, inner);
            }
        });
    }
}
