//! Incremental decoding with a cache of keys and values, of one sequence or several.

mod weights;

use crate::gpt2::settings::Gpt2Config;
use crate::ops::add::add_to;
use crate::ops::affine::Affine;
use crate::ops::attention::KeyValueCache;
use crate::ops::gelu::gelu;
use crate::ops::layer_norm::normalize;
use crate::ops::spin_pool::SpinPool;
use keepstep_numerics::matmul::{Accumulate, Matrix, MatrixMut};
use rayon::prelude::*;
pub use weights::{DecoderWeights, PanelParameters};

/// The largest number of tokens in one batched pass.
const ROWS: usize = 128;

/// The smallest number of tokens of a sequence for which a batched pass is worthwhile.
const MIN_BATCHED_TOKENS: usize = 4;

/// A decoder for growing contexts of the same length. Each weight is read once for all of them.
///
/// Every value has the bits that a forward pass over the whole context computes. Each element of each buffer is one
/// defined expression, whether it is computed for one token, for several tokens of a sequence or for several sequences.
pub struct Decoder<'a> {
    model: &'a Gpt2Config,
    weights: DecoderWeights<'a>,
    pool: &'a SpinPool,
    /// The most positions of a context.
    capacity: usize,
    caches: Vec<Cache>,
    /// The number of positions that are filled.
    len: usize,
    /// The last position of each sequence.
    rows: Rows,
    /// `[sequences, vocab_size]`
    logits: Vec<f32>,
}

/// The keys and values of one sequence, for each block.
struct Cache(Vec<KeyValueCache>);

impl Cache {
    fn new(model: &Gpt2Config, capacity: usize) -> Cache {
        Cache((0..model.n_layer).map(|_| KeyValueCache::new(model.attention(), capacity)).collect())
    }

    /// Copies the first `len` positions.
    fn fork(&self, capacity: usize, len: usize) -> Cache {
        Cache(self.0.iter().map(|cache| cache.fork(capacity, len)).collect())
    }
}

/// The activations of a number of rows.
struct Rows {
    x: Vec<f32>,
    normal: Vec<f32>,
    qkv: Vec<f32>,
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
            qkv: buffer(3 * width),
            attended: buffer(width),
            out: buffer(width),
            fc: buffer(inner),
            active: buffer(inner),
        }
    }
}

impl<'a> Decoder<'a> {
    /// Creates a decoder for one sequence, with an empty context of at most `capacity` positions.
    ///
    /// # Panics
    /// If `capacity` exceeds the model's `block_size`.
    pub fn new(
        model: &'a Gpt2Config,
        weights: DecoderWeights<'a>,
        pool: &'a SpinPool,
        capacity: usize,
    ) -> Decoder<'a> {
        assert!(capacity <= model.block_size, "the model has {} positions", model.block_size);
        Decoder {
            model,
            weights,
            pool,
            capacity,
            caches: vec![Cache::new(model, capacity)],
            len: 0,
            rows: Rows::new(model, 1),
            logits: vec![0.0; model.vocab_size],
        }
    }

    /// Returns the memory that each sequence takes, in bytes.
    pub fn sequence_bytes(model: &Gpt2Config, capacity: usize) -> u64 {
        let cache = model.n_layer * KeyValueCache::len(&model.attention(), capacity);
        let row = 7 * model.n_embd + 2 * model.n_inner() + model.vocab_size;
        (cache + row) as u64 * size_of::<f32>() as u64
    }

    /// Returns the number of positions that are filled, at most the decoder's capacity.
    #[expect(clippy::len_without_is_empty, reason = "it is a position, not a collection")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Empties the contexts.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Turns the only sequence into `count` sequences with the same context.
    ///
    /// # Panics
    /// If there are several already, or `count` is 0.
    pub fn fork(&mut self, count: usize) {
        assert!(self.caches.len() == 1 && count > 0, "one sequence becomes several");
        let fork = |_| self.caches[0].fork(self.capacity, self.len);
        let forks: Vec<Cache> = (1..count).into_par_iter().map(fork).collect();
        self.caches.extend(forks);
        self.logits = self.logits.repeat(count);
        self.rows = Rows::new(self.model, count);
    }

    /// Removes one sequence. Those after it move up by one place.
    pub fn remove(&mut self, sequence: usize) {
        self.caches.remove(sequence);
        let vocab_size = self.model.vocab_size;
        self.logits.drain(sequence * vocab_size..(sequence + 1) * vocab_size);
    }

    /// Returns the logits of the token after a sequence's context, `[vocab_size]`.
    pub fn logits(&self, sequence: usize) -> &[f32] {
        &self.logits[sequence * self.model.vocab_size..][..self.model.vocab_size]
    }

    /// Appends tokens to each context, the same number to each. There must be room for them.
    ///
    /// # Panics
    /// If there are not as many slices as sequences, or the slices differ in length.
    pub fn append(&mut self, tokens: &[&[u32]]) {
        assert_eq!(tokens.len(), self.caches.len(), "tokens for each sequence");
        let count = tokens.first().map_or(0, |tokens| tokens.len());
        assert!(tokens.iter().all(|tokens| tokens.len() == count), "the same number of tokens for each");
        assert!(self.len + count <= self.capacity, "room for the tokens");
        if count == 0 {
            return;
        }
        if count < MIN_BATCHED_TOKENS {
            (0..count).for_each(|index| self.step(|sequence| tokens[sequence][index]));
        } else {
            let mut rows = Rows::new(self.model, count.min(ROWS));
            for (sequence, tokens) in tokens.iter().enumerate() {
                for (pass, tokens) in tokens.chunks(ROWS).enumerate() {
                    self.pass(sequence, self.len + pass * ROWS, tokens, &mut rows);
                }
            }
            self.len += count;
        }
        self.head();
    }

    /// Appends one token to each sequence, on the threads of the spin pool.
    fn step(&mut self, token: impl Fn(usize) -> u32) {
        let Decoder { model, weights, pool, caches, len, rows, .. } = self;
        let (width, inner, place, count) = (model.n_embd, model.n_inner(), *len, caches.len());
        let epsilon = model.layer_norm_epsilon as f32;
        let Rows { x, normal, qkv, attended, out, fc, active } = rows;
        let (x, normal) = (&mut x[..count * width], &mut normal[..count * width]);
        let (attended, out) = (&mut attended[..count * width], &mut out[..count * width]);
        let (fc, active) = (&mut fc[..count * inner], &mut active[..count * inner]);
        let qkv = &mut qkv[..count * 3 * width];
        for (sequence, x) in x.chunks_mut(width).enumerate() {
            weights.embed(x, token(sequence), place);
        }
        let normalize_all = |normal: &mut [f32], x: &[f32], affine: &Affine<&[f32]>| {
            pool.chunks(normal, width, |row, normal| {
                normalize(normal, &x[row * width..][..width], affine.weight, affine.bias, epsilon);
            });
        };
        let linear_rows = |y: &mut [f32], x: &[f32], affine: &Affine<&[f32]>| {
            let (out, accumulate, lhs) = operands(y, x, affine);
            weights.linear(affine).multiply_few(pool, out, accumulate, lhs);
        };
        for (layer, block) in weights.views.layers.iter().enumerate() {
            normalize_all(normal, x, &block.ln_1);
            linear_rows(qkv, normal, &block.attn_c_attn);
            attend(pool, attended, qkv, caches.iter_mut().map(|cache| &mut cache.0[layer]), place);
            linear_rows(out, attended, &block.attn_c_proj);
            add_to(x, out);
            normalize_all(normal, x, &block.ln_2);
            linear_rows(fc, normal, &block.mlp_c_fc);
            pool.chunks(active, inner, |row, active| gelu(active, &fc[row * inner..][..inner]));
            linear_rows(out, active, &block.mlp_c_proj);
            add_to(x, out);
        }
        normalize_all(normal, x, &weights.views.ln_f);
        *len += 1;
    }

    /// Appends several tokens to one sequence from position `start` on, on the threads of the current rayon pool.
    fn pass(&mut self, sequence: usize, start: usize, tokens: &[u32], rows: &mut Rows) {
        let Decoder { model, weights, caches, rows: last_rows, .. } = self;
        let (width, count) = (model.n_embd, tokens.len());
        let epsilon = model.layer_norm_epsilon as f32;
        let Rows { x, normal, qkv, attended, out, fc, active } = rows;
        let inner = model.n_inner();
        let qkv = &mut qkv[..count * 3 * width];
        let (x, normal) = (&mut x[..count * width], &mut normal[..count * width]);
        let (attended, out) = (&mut attended[..count * width], &mut out[..count * width]);
        let (fc, active) = (&mut fc[..count * inner], &mut active[..count * inner]);
        for (index, (x, &token)) in x.chunks_mut(width).zip(tokens).enumerate() {
            weights.embed(x, token, start + index);
        }
        let normalize_all = |normal: &mut [f32], x: &[f32], affine: &Affine<&[f32]>| {
            let rows = normal.par_chunks_mut(width).zip(x.par_chunks(width));
            rows.for_each(|(normal, x)| {
                normalize(normal, x, affine.weight, affine.bias, epsilon);
            });
        };
        let linear = |y: &mut [f32], x: &[f32], affine: &Affine<&[f32]>| {
            let (out, accumulate, lhs) = operands(y, x, affine);
            weights.linear(affine).multiply(out, accumulate, lhs);
        };
        for (block, cache) in weights.views.layers.iter().zip(&mut caches[sequence].0) {
            normalize_all(normal, x, &block.ln_1);
            linear(qkv, normal, &block.attn_c_attn);
            cache.write(start, qkv);
            let rows = attended.par_chunks_mut(width).zip(qkv.par_chunks(3 * width)).enumerate();
            rows.for_each(|(index, (out, qkv))| cache.attend(out, qkv, 0, start + index));
            linear(out, attended, &block.attn_c_proj);
            add_to(x, out);
            normalize_all(normal, x, &block.ln_2);
            linear(fc, normal, &block.mlp_c_fc);
            active.par_chunks_mut(inner).zip(fc.par_chunks(inner)).for_each(|(active, fc)| gelu(active, fc));
            linear(out, active, &block.mlp_c_proj);
            add_to(x, out);
        }
        let last = &x[(count - 1) * width..];
        let normal = &mut last_rows.normal[sequence * width..][..width];
        normalize(normal, last, weights.views.ln_f.weight, weights.views.ln_f.bias, epsilon);
    }

    /// Computes the logits of each sequence's last row.
    fn head(&mut self) {
        let Decoder { model, weights, pool, caches, rows, logits, .. } = self;
        let (width, vocab_size, count) = (model.n_embd, model.vocab_size, caches.len());
        let out = MatrixMut::new(logits, count, vocab_size);
        let lhs = Matrix::new(&rows.normal, count, width);
        weights.head(width).multiply_few(pool, out, Accumulate::Replace, lhs);
    }
}

/// The operands of `y = x · weight + bias`, the weight aside.
fn operands<'a>(
    y: &'a mut [f32],
    x: &'a [f32],
    affine: &Affine<&'a [f32]>,
) -> (MatrixMut<'a>, Accumulate<'a>, Matrix<'a>) {
    let outs = affine.bias.len();
    let (rows, ins) = (y.len() / outs, affine.weight.len() / outs);
    (MatrixMut::new(y, rows, outs), Accumulate::Bias(affine.bias), Matrix::new(x, rows, ins))
}

/// Writes the keys and values of each sequence's row to its cache, and computes the rows' attention.
fn attend<'a>(
    pool: &SpinPool,
    out: &mut [f32],
    qkv: &[f32],
    caches: impl ExactSizeIterator<Item = &'a mut KeyValueCache>,
    place: usize,
) {
    let count = caches.len();
    let (width, qkv_rows) = (out.len() / count, qkv.chunks(3 * out.len() / count));
    if count > 2 * pool.size() {
        let sequences = caches.zip(qkv_rows).zip(out.chunks_mut(width)).collect();
        return pool.for_each(sequences, |((cache, qkv), out)| {
            cache.write(place, qkv);
            cache.attend(out, qkv, 0, place);
        });
    }
    for ((cache, qkv), out) in caches.zip(qkv_rows).zip(out.chunks_mut(width)) {
        cache.write(place, qkv);
        let cache: &KeyValueCache = cache;
        let heads = cache.num_heads().div_ceil(2 * pool.size());
        pool.chunks(out, heads * cache.head_size(), |index, out| {
            cache.attend(out, qkv, index * heads, place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Batch;
    use crate::gpt2::{Gpt2, Gpt2Spec};
    use crate::model::Model;
    use crate::testing::decodable;

    /// The decoder's logits are those that the engine computes for the whole sequence: token by token, in passes of any
    /// length, and with any pool.
    #[test]
    fn the_cache_gives_the_bits_of_a_whole_pass() {
        let (model, parameters) = decodable(256, 600);
        let tokens: Vec<u32> = (0..601_u32).map(|index| (index * index * 7 + 3) % 256).collect();
        let layout = model.layout();
        let mut engine = Gpt2::new(&Gpt2Spec::new(model, 1));
        engine.loss(&parameters, &Batch::new(&tokens)).expect("a batch");
        let panels = PanelParameters::new(&model, parameters.clone(), 2);
        let lens = [(1, &[1][..]), (3, &[1]), (2, &[5, 1, 1, 90, 130, 1, 3])];
        for (in_panels, (threads, lens)) in
            [false, true].into_iter().flat_map(|which| lens.map(|lens| (which, lens)))
        {
            SpinPool::scope(threads, |pool| {
                let weights = if in_panels {
                    panels.weights(&model, &layout)
                } else {
                    DecoderWeights::in_place(model.views(&layout, &parameters))
                };
                let mut decoder = Decoder::new(&model, weights, pool, 600);
                let mut lens = lens.iter().cycle();
                while decoder.len() < 600 {
                    let (len, next) = (decoder.len(), *lens.next().expect("it goes on"));
                    decoder.append(&[&tokens[len..(len + next).min(600)]]);
                    let place = decoder.len() - 1;
                    if next > 1 || place.is_multiple_of(71) || place > 590 {
                        let whole = engine.logits(&parameters, place);
                        let both = whole.iter().zip(decoder.logits(0));
                        let same = both.clone().all(|(one, other)| one.to_bits() == other.to_bits());
                        assert!(same, "at {place} with {threads} threads, in panels: {in_panels}");
                    }
                }
            });
        }
    }

    /// Sequences that are decoded together have the logits that each has alone, also after others are removed.
    #[test]
    fn sequences_do_not_affect_each_other() {
        let (model, parameters) = decodable(70, 40);
        let layout = model.layout();
        let panels = PanelParameters::new(&model, parameters, 2);
        let token = |sequence: usize, place: usize| ((sequence * 31 + place * place * 7 + 5) % 70) as u32;
        let prompt: Vec<u32> = (0..9).map(|place| token(0, place)).collect();
        let text = |sequence: usize| -> Vec<u32> {
            let new = (9..40).map(|place| token(sequence, place));
            prompt.iter().copied().chain(new).collect()
        };
        for (threads, count) in [(1, 2), (2, 5), (3, 17), (1, 33)] {
            SpinPool::scope(threads, |pool| {
                let decoder = || Decoder::new(&model, panels.weights(&model, &layout), pool, 40);
                let texts: Vec<Vec<u32>> = (0..count).map(text).collect();
                let mut together = decoder();
                together.append(&[&prompt]);
                together.fork(count);
                let mut alive: Vec<usize> = (0..count).collect();
                for lens in [9..10, 10..12, 12..30, 30..31, 31..40] {
                    let tokens: Vec<&[u32]> =
                        alive.iter().map(|&index| &texts[index][lens.clone()]).collect();
                    together.append(&tokens);
                    for (place, &index) in alive.iter().enumerate() {
                        let mut alone = decoder();
                        alone.append(&[&texts[index][..lens.end]]);
                        let mut both = alone.logits(0).iter().zip(together.logits(place));
                        assert!(
                            both.all(|(one, other)| one.to_bits() == other.to_bits()),
                            "{index} of {count} at {lens:?} with {threads} threads"
                        );
                    }
                    if alive.len() > 1 {
                        let place = lens.end % alive.len();
                        alive.remove(place);
                        together.remove(place);
                    }
                }
            });
        }
    }
}
