//! Incremental decoding with a cache of keys and values.

use crate::gpt2::layout::Views;
use crate::gpt2::settings::Gpt2Config;
use crate::ops::affine::Affine;
use crate::ops::gelu::gelu;
use crate::ops::layer_norm::normalize;
use crate::ops::linear::forward as linear;
use crate::ops::spin_pool::SpinPool;
use keepstep_numerics::matmul::matvec::{add_vecmat, matvec};
use rayon::prelude::*;

/// The largest number of tokens in one batched pass.
const ROWS: usize = 128;

/// The smallest number of tokens for which a batched pass is worthwhile.
const MIN_BATCHED_TOKENS: usize = 4;

/// The smallest number of multiply-adds in a chunk of a matmul: a few microseconds of work.
const MIN_CHUNK_MULTIPLY_ADDS: usize = 1 << 15;

/// A decoder for one growing context.
///
/// Every value has the bits that a forward pass over the whole context computes. Each element of each buffer is one
/// defined expression, and a batched pass evaluates the same expression as a single token.
pub struct Decoder<'a> {
    model: &'a Gpt2Config,
    weights: Views<&'a [f32]>,
    pool: &'a SpinPool,
    /// The cache of each block, `[block_size, 3 * n_embd]`, laid out as in the engine.
    qkv: Vec<Vec<f32>>,
    /// The number of positions that are filled.
    len: usize,
    row: Rows,
    logits: Vec<f32>,
}

/// The activations of a number of rows.
struct Rows {
    x: Vec<f32>,
    normal: Vec<f32>,
    attended: Vec<f32>,
    out: Vec<f32>,
    fc: Vec<f32>,
    active: Vec<f32>,
}

impl Rows {
    fn new(model: &Gpt2Config, count: usize) -> Rows {
        let buffer = |cols: usize| vec![0.0; count * cols];
        let (width, inner) = (model.n_embd, model.n_inner());
        Rows {
            x: buffer(width),
            normal: buffer(width),
            attended: buffer(width),
            out: buffer(width),
            fc: buffer(inner),
            active: buffer(inner),
        }
    }
}

impl<'a> Decoder<'a> {
    /// Creates a decoder with an empty context. `weights` are the model's tensors.
    pub fn new(model: &'a Gpt2Config, weights: Views<&'a [f32]>, pool: &'a SpinPool) -> Decoder<'a> {
        Decoder {
            model,
            weights,
            pool,
            qkv: vec![vec![0.0; model.block_size * 3 * model.n_embd]; model.n_layer],
            len: 0,
            row: Rows::new(model, 1),
            logits: vec![0.0; model.vocab_size],
        }
    }

    /// Returns the number of positions that are filled, at most the model's `block_size`.
    #[expect(clippy::len_without_is_empty, reason = "it is a position, not a collection")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Empties the context.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Returns the logits of the token after the context, `[vocab_size]`.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Appends tokens to the context. There must be room for them.
    pub fn append(&mut self, tokens: &[u32]) {
        if tokens.len() < MIN_BATCHED_TOKENS {
            tokens.iter().for_each(|&token| self.append_one(token));
        } else {
            let mut rows = Rows::new(self.model, tokens.len().min(ROWS));
            tokens.chunks(ROWS).for_each(|tokens| self.pass(tokens, &mut rows));
        }
        if !tokens.is_empty() {
            self.head();
        }
    }

    /// Appends one token, on the threads of the spin pool.
    fn append_one(&mut self, token: u32) {
        let Decoder { model, weights, pool, qkv, len, row, .. } = self;
        let width = model.n_embd;
        let epsilon = model.layer_norm_epsilon as f32;
        let place = *len;
        let Rows { x, normal, attended, out, fc, active } = row;
        embed(x, weights, token, place);
        for (weights, qkv) in weights.layers.iter().zip(qkv) {
            normalize(normal, x, weights.ln_1.weight, weights.ln_1.bias, epsilon);
            row_linear(
                pool,
                &mut qkv[place * 3 * width..(place + 1) * 3 * width],
                normal,
                &weights.attn_c_attn,
            );
            let qkv: &[f32] = qkv;
            let attention = model.attention();
            pool.chunks(attended, model.head_size(), |head, out| {
                attention.attend_head(out, qkv, head, place)
            });
            row_linear(pool, out, attended, &weights.attn_c_proj);
            add(x, out);
            normalize(normal, x, weights.ln_2.weight, weights.ln_2.bias, epsilon);
            row_linear(pool, fc, normal, &weights.mlp_c_fc);
            gelu(active, fc);
            row_linear(pool, out, active, &weights.mlp_c_proj);
            add(x, out);
        }
        normalize(normal, x, weights.ln_f.weight, weights.ln_f.bias, epsilon);
        *len += 1;
    }

    /// Appends several tokens in one batched pass, on the threads of the current rayon pool.
    fn pass(&mut self, tokens: &[u32], rows: &mut Rows) {
        let Decoder { model, weights, qkv, len, row, .. } = self;
        let (width, count, start) = (model.n_embd, tokens.len(), *len);
        let epsilon = model.layer_norm_epsilon as f32;
        let Rows { x, normal, attended, out, fc, active } = rows;
        let inner = model.n_inner();
        let (x, normal) = (&mut x[..count * width], &mut normal[..count * width]);
        let (attended, out) = (&mut attended[..count * width], &mut out[..count * width]);
        let (fc, active) = (&mut fc[..count * inner], &mut active[..count * inner]);
        for (index, (x, &token)) in x.chunks_mut(width).zip(tokens).enumerate() {
            embed(x, weights, token, start + index);
        }
        let normalize_all = |normal: &mut [f32], x: &[f32], affine: &Affine<&[f32]>| {
            let rows = normal.par_chunks_mut(width).zip(x.par_chunks(width));
            rows.for_each(|(normal, x)| {
                normalize(normal, x, affine.weight, affine.bias, epsilon);
            });
        };
        for (weights, qkv) in weights.layers.iter().zip(qkv) {
            normalize_all(normal, x, &weights.ln_1);
            linear(&mut qkv[start * 3 * width..(start + count) * 3 * width], normal, &weights.attn_c_attn);
            let (attention, qkv): (_, &[f32]) = (model.attention(), qkv);
            attended
                .par_chunks_mut(width)
                .enumerate()
                .for_each(|(index, out)| attention.attend(out, qkv, start + index));
            linear(out, attended, &weights.attn_c_proj);
            add(x, out);
            normalize_all(normal, x, &weights.ln_2);
            linear(fc, normal, &weights.mlp_c_fc);
            active.par_chunks_mut(inner).zip(fc.par_chunks(inner)).for_each(|(active, fc)| gelu(active, fc));
            linear(out, active, &weights.mlp_c_proj);
            add(x, out);
        }
        let last = &x[(count - 1) * width..];
        normalize(&mut row.normal, last, weights.ln_f.weight, weights.ln_f.bias, epsilon);
        *len += count;
    }

    /// Computes the logits of the last row.
    fn head(&mut self) {
        let Decoder { model, weights, pool, row, logits, .. } = self;
        let width = model.n_embd;
        let (normal, wte) = (&row.normal, weights.wte);
        let len = chunk_len(pool, model.vocab_size, width);
        pool.chunks(logits, len, |index, logits| {
            matvec(logits, normal, &wte[index * len * width..], width);
        });
    }
}

/// `x = wte[token] + wpe[place]`.
fn embed(x: &mut [f32], weights: &Views<&[f32]>, token: u32, place: usize) {
    let width = x.len();
    let wte = &weights.wte[token as usize * width..(token as usize + 1) * width];
    let wpe = &weights.wpe[place * width..(place + 1) * width];
    for ((x, token), place) in x.iter_mut().zip(wte).zip(wpe) {
        *x = token + place;
    }
}

/// Computes `y = x · weight + bias` of one row, with the bits of [`linear`](crate::ops::linear).
fn row_linear(pool: &SpinPool, y: &mut [f32], x: &[f32], affine: &Affine<&[f32]>) {
    let outs = affine.bias.len();
    let len = chunk_len(pool, outs, x.len());
    pool.chunks(y, len, |index, y| {
        let first = index * len;
        y.copy_from_slice(&affine.bias[first..first + y.len()]);
        add_vecmat(y, x, affine.weight, outs, first);
    });
}

/// The number of columns in a chunk of a vector-matrix product: a multiple of whole vectors and cache lines, which no
/// other chunk writes to. Two chunks per thread keep all threads busy until the end, and long chunks read memory
/// fastest.
fn chunk_len(pool: &SpinPool, cols: usize, inner: usize) -> usize {
    let least = (MIN_CHUNK_MULTIPLY_ADDS / inner.max(1)).max(1);
    least.max(cols / (2 * pool.size())).next_multiple_of(64)
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Batch;
    use crate::gpt2::layout::initial_parameters;
    use crate::gpt2::{Gpt2, Gpt2Spec};
    use crate::model::Model;

    /// The decoder's logits are those that the engine computes for the whole sequence: token by token, in passes of any
    /// length, and with any pool.
    #[test]
    fn the_cache_gives_the_bits_of_a_whole_pass() {
        let model = Gpt2Config {
            vocab_size: 256,
            block_size: 600,
            n_layer: 2,
            n_head: 3,
            n_embd: 39,
            dropout: 0.0,
            layer_norm_epsilon: 1e-5,
        };
        let mut parameters = initial_parameters(&model, 1);
        parameters.iter_mut().for_each(|value| *value *= 8.0);
        let tokens: Vec<u32> = (0..601_u32).map(|index| (index * index * 7 + 3) % 256).collect();
        let layout = model.layout();
        let mut engine = Gpt2::new(&Gpt2Spec::new(model, 1));
        engine.loss(&parameters, &Batch::new(&tokens)).expect("a batch");
        for (threads, lens) in [(1, &[1][..]), (3, &[1]), (2, &[5, 1, 1, 90, 130, 1, 3])] {
            SpinPool::scope(threads, |pool| {
                let mut decoder = Decoder::new(&model, model.views(&layout, &parameters), pool);
                let mut lens = lens.iter().cycle();
                while decoder.len() < 600 {
                    let (len, next) = (decoder.len(), *lens.next().expect("it goes on"));
                    decoder.append(&tokens[len..(len + next).min(600)]);
                    let place = decoder.len() - 1;
                    if next > 1 || place.is_multiple_of(71) || place > 590 {
                        let whole = engine.logits(&parameters, place);
                        let both = whole.iter().zip(decoder.logits());
                        let same = both.clone().all(|(one, other)| one.to_bits() == other.to_bits());
                        assert!(same, "at {place} with {threads} threads");
                    }
                }
            });
        }
    }
}
