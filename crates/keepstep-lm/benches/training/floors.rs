//! Lower bounds for an update: the time of its matmuls, and of the memory traffic of the optimizer.

use keepstep_model::gpt2::settings::Gpt2Config;
use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut, Triangle, matmul, serial_matmul_of};
use rayon::prelude::*;
use std::time::Instant;

pub(crate) fn print(model: &Gpt2Config, batch_size: usize) {
    for _ in 0..2 {
        let [forward, inputs, weights] = linear_products(model, batch_size);
        let [attention, attention_gradients] = attention_products(model, batch_size);
        println!("products {:.3}", forward + inputs + weights);
        println!("products_forward {forward:.3}\nproducts_inputs {inputs:.3}\nproducts_weights {weights:.3}");
        println!("attention_forward {attention:.3}\nattention_backward {attention_gradients:.3}");
        println!("memory {:.3}", optimizer_memory(model));
    }
    println!("operations {:.3}", operations(model, batch_size));
    if let Some(peak) = multiply_adds() {
        println!("peak_rate {peak:.3}");
    }
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e3
}

/// Measures the matmuls of one update's linear layers and head, in milliseconds: forward, for the gradients of inputs,
/// and for the gradients of weights.
fn linear_products(model: &Gpt2Config, batch_size: usize) -> [f64; 3] {
    let rows = batch_size * model.block_size;
    let width = model.n_embd;
    let mut total = [0.0; 3];
    for (ins, outs, count) in [
        (width, 3 * width, model.n_layer),
        (width, width, model.n_layer),
        (width, 4 * width, model.n_layer),
        (4 * width, width, model.n_layer),
        (width, model.vocab_size.min(4096), model.vocab_size.div_ceil(4096)),
    ] {
        let (x, y, weight) = (vec![0.5; rows * ins], vec![0.5; rows * outs], vec![0.5; ins * outs]);
        let (mut x_out, mut y_out, mut weight_out) = (x.clone(), y.clone(), weight.clone());
        for _ in 0..count {
            let (x, y) = (Matrix::new(&x, rows, ins), Matrix::new(&y, rows, outs));
            let weight = Matrix::new(&weight, ins, outs);
            total[0] +=
                timed(|| matmul(MatrixMut::new(&mut y_out, rows, outs), Accumulate::Replace, x, weight));
            total[1] += timed(|| {
                matmul(MatrixMut::new(&mut x_out, rows, ins), Accumulate::Replace, y, weight.transposed());
            });
            total[2] += timed(|| {
                matmul(MatrixMut::new(&mut weight_out, ins, outs), Accumulate::Replace, x.transposed(), y);
            });
        }
    }
    total
}

/// Measures the matmuls of the attentions in milliseconds, over blocks of 64 x 64 up to the diagonal: two per block
/// forward and five backward. On the diagonal, a block leaves out what no row sees.
fn attention_products(model: &Gpt2Config, batch_size: usize) -> [f64; 2] {
    const BLOCK: usize = 64;
    let size = model.n_embd / model.n_head;
    let blocks = model.block_size.div_ceil(BLOCK);
    let heads = model.n_layer * batch_size * model.n_head;
    let queries = vec![0.5; BLOCK * size];
    let run = |products: usize| {
        timed(|| {
            (0..heads * blocks).into_par_iter().for_each(|index| {
                let (mut scores, mut sums) = (vec![0.5; BLOCK * BLOCK], vec![0.5; BLOCK * size]);
                for block in 0..=index % blocks {
                    let rows = Matrix::new(&queries, BLOCK, size);
                    let triangle = |triangle: Triangle| triangle.on_diagonal(block == index % blocks);
                    for _ in 0..products / 2 {
                        let out = MatrixMut::new(&mut scores, BLOCK, BLOCK);
                        let triangle = triangle(Triangle::Result);
                        serial_matmul_of(triangle, out, Accumulate::Replace, rows, rows.transposed());
                    }
                    for product in products / 2..products {
                        let weights = Matrix::new(&scores, BLOCK, BLOCK);
                        // Backward: the gradients of values and keys, and those of queries, which are computed whole.
                        let (weights, triangle) = match product {
                            1 => (weights, triangle(Triangle::LowerLeft)),
                            2 | 3 => (weights.transposed(), triangle(Triangle::UpperLeft)),
                            _ => (weights, Triangle::None),
                        };
                        let out = MatrixMut::new(&mut sums, BLOCK, size);
                        serial_matmul_of(triangle, out, Accumulate::Add, weights, rows);
                    }
                    scores.fill(0.5);
                }
            });
        })
    };
    [run(2), run(5)]
}

/// Measures the optimizer's memory traffic in milliseconds: reads the gradient twice, weights and two moments once, and
/// writes these three.
fn optimizer_memory(model: &Gpt2Config) -> f64 {
    const CHUNK: usize = 1 << 14;
    let len = model.layout().num_parameters();
    let gradient = vec![0.5_f32; len];
    let mut state = [vec![0.5_f32; len], vec![0.5_f32; len], vec![0.5_f32; len]];
    let [one, two, three] = &mut state;
    timed(|| {
        let sum: f32 =
            gradient.par_chunks(CHUNK).map(|chunk| chunk.iter().fold(0.0, |sum, x| x.max(sum))).sum();
        std::hint::black_box(sum);
        let parts = one.par_chunks_mut(CHUNK).zip(two.par_chunks_mut(CHUNK)).zip(three.par_chunks_mut(CHUNK));
        parts.zip(gradient.par_chunks(CHUNK)).for_each(|(((one, two), three), gradient)| {
            for (((one, two), three), gradient) in one.iter_mut().zip(two).zip(three).zip(gradient) {
                (*one, *two, *three) = (*two + gradient, *three + gradient, *one + gradient);
            }
        });
    })
}

/// Counts the operations of the linear layers and the head, in billions. A multiply-add counts as two.
fn operations(model: &Gpt2Config, batch_size: usize) -> f64 {
    let weights = 12 * model.n_layer * model.n_embd * model.n_embd + model.n_embd * model.vocab_size;
    6.0 * (weights * batch_size * model.block_size) as f64 / 1e9
}

/// Measures the peak rate of all threads in billions of operations per second, with multiply-adds in registers only.
fn multiply_adds() -> Option<f64> {
    let start = Instant::now();
    let operations = rayon::broadcast(|_| keepstep_numerics::testing::multiply_adds(20_000_000));
    let operations: usize = operations.into_iter().sum::<Option<usize>>()?;
    Some(operations as f64 / start.elapsed().as_secs_f64() / 1e9)
}
