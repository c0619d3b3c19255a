//! Writing text: one token at a time, with a cache of keys and values.
//!
//! A position is computed by the engine's own arithmetic, so that its logits have the bits that a whole forward pass
//! would give.

use crate::engine::{attend, gelu, linear, normalize};
use crate::model::ModelConfig;
use crate::numerics::math::exp;
use crate::numerics::product::{Into, Matrix, MatrixMut, product};
use crate::parameters::{Layout, Views};
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::trained::{TrainedModel, TrainedModelError};
use keepstep::Checkpoint;
use keepstep::rng::{Purpose, Stream};
use std::borrow::Cow;
use std::cmp::Ordering;
use thiserror::Error;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// How many tokens are written at most; an end-of-text token ends it earlier.
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Choose among this many likeliest tokens; 0 among all.
    pub top_k: usize,
    /// The same seed writes the same text.
    pub seed: u64,
}

/// Text that cannot be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The checkpoint holds no language model.
    #[error(transparent)]
    Checkpoint(#[from] TrainedModelError),
    /// The tokenizer cannot be used on this prompt.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// There is nothing to continue.
    #[error(
        "the prompt is empty, and this tokenizer has no end-of-text token to begin with: give at least one character"
    )]
    EmptyPrompt,
}

/// A trained model that writes.
#[derive(Debug)]
pub struct Generator<'a> {
    model: ModelConfig,
    parameters: Cow<'a, [f32]>,
    tokenizer: Tokenizer,
}

impl<'a> Generator<'a> {
    /// Of parameters in a buffer of the model's [`Layout`].
    pub fn new(
        model: ModelConfig,
        parameters: impl std::convert::Into<Cow<'a, [f32]>>,
        tokenizer: Tokenizer,
    ) -> Generator<'a> {
        Generator { model, parameters: parameters.into(), tokenizer }
    }

    /// Of a checkpoint, which is enough by itself.
    ///
    /// # Errors
    /// It is not one of a language model.
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &str) -> Result<Generator<'a>, GenerateError> {
        let TrainedModel { model, parameters, tokenizer } = TrainedModel::of_checkpoint(checkpoint, place)?;
        Ok(Generator { model, parameters: parameters.into(), tokenizer })
    }

    /// The logits of the token after `prompt`, `[vocab_size]`.
    ///
    /// # Errors
    /// The prompt is empty, or cannot be tokenized.
    pub fn logits(&self, prompt: &str) -> Result<Vec<f32>, GenerateError> {
        let context = self.tokenizer.encode(prompt)?;
        let layout = Layout::new(&self.model);
        let mut decoder = Decoder::new(&self.model, layout.views(&self.parameters));
        let start = context.len().saturating_sub(self.model.block_size);
        for &token in &context[start..] {
            decoder.step(token);
        }
        if context.is_empty() { Err(GenerateError::EmptyPrompt) } else { Ok(decoder.logits) }
    }

    /// Continues `prompt`; gives the new text alone. `stop` is asked before each token.
    ///
    /// Where the context is full, it goes on with its last half.
    ///
    /// # Errors
    /// The prompt is empty or cannot be tokenized.
    pub fn generate(
        &self,
        prompt: &str,
        options: &GenerateOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<String, GenerateError> {
        let mut context = self.tokenizer.encode(prompt)?;
        if context.is_empty() {
            context.push(self.tokenizer.end_of_text().ok_or(GenerateError::EmptyPrompt)?);
        }
        let first_new = context.len();
        let layout = Layout::new(&self.model);
        let mut decoder = Decoder::new(&self.model, layout.views(&self.parameters));
        let block_size = self.model.block_size;
        for index in 0..options.max_new_tokens {
            if stop() {
                break;
            }
            let fed = decoder.fed;
            if fed == 0 || decoder.len == block_size {
                let keep = if fed == 0 { block_size } else { (block_size / 2).max(1) };
                decoder.len = 0;
                let start = context.len().saturating_sub(keep);
                for &token in &context[start..] {
                    decoder.step(token);
                }
            } else {
                for &token in &context[fed..] {
                    decoder.step(token);
                }
            }
            decoder.fed = context.len();
            let token = choose(&decoder.logits, options, index as u64);
            if Some(token) == self.tokenizer.end_of_text() {
                break;
            }
            context.push(token);
        }
        Ok(self.tokenizer.decode(&context[first_new..])?)
    }
}

/// The state between two tokens.
struct Decoder<'a> {
    model: &'a ModelConfig,
    weights: Views<&'a [f32]>,
    /// Per block: `[block_size, 3 * n_embd]`, as the engine has it.
    qkv: Vec<Vec<f32>>,
    /// Places that are filled.
    len: usize,
    /// Tokens of the context that have been seen.
    fed: usize,
    logits: Vec<f32>,
}

impl<'a> Decoder<'a> {
    fn new(model: &'a ModelConfig, weights: Views<&'a [f32]>) -> Decoder<'a> {
        Decoder {
            model,
            weights,
            qkv: vec![vec![0.0; model.block_size * 3 * model.n_embd]; model.n_layer],
            len: 0,
            fed: 0,
            logits: vec![0.0; model.vocab_size],
        }
    }

    /// Sees one more token.
    fn step(&mut self, token: u32) {
        let ModelConfig { n_embd: width, vocab_size, .. } = *self.model;
        let epsilon = self.model.layer_norm_epsilon as f32;
        let (place, token) = (self.len, token as usize);
        let row = |table: &'a [f32], index: usize| &table[index * width..(index + 1) * width];
        let mut x: Vec<f32> = row(self.weights.wte, token)
            .iter()
            .zip(row(self.weights.wpe, place))
            .map(|(a, b)| a + b)
            .collect();
        let (mut normal, mut attended, mut out) = (vec![0.0; width], vec![0.0; width], vec![0.0; width]);
        let (mut fc, mut active) = (vec![0.0; self.model.n_inner()], vec![0.0; self.model.n_inner()]);
        for (weights, qkv) in self.weights.layers.iter().zip(&mut self.qkv) {
            normalize(&mut normal, &x, weights.ln_1.weight, weights.ln_1.bias, epsilon);
            linear(&mut qkv[place * 3 * width..(place + 1) * 3 * width], &normal, &weights.attn_c_attn);
            attend(&mut attended, self.model, qkv, place);
            linear(&mut out, &attended, &weights.attn_c_proj);
            add(&mut x, &out);
            normalize(&mut normal, &x, weights.ln_2.weight, weights.ln_2.bias, epsilon);
            linear(&mut fc, &normal, &weights.mlp_c_fc);
            gelu(&mut active, &fc);
            linear(&mut out, &active, &weights.mlp_c_proj);
            add(&mut x, &out);
        }
        normalize(&mut normal, &x, self.weights.ln_f.weight, self.weights.ln_f.bias, epsilon);
        product(
            MatrixMut::new(&mut self.logits, 1, vocab_size),
            Into::Replace,
            Matrix::new(&normal, 1, width),
            Matrix::new(self.weights.wte, vocab_size, width).transposed(),
        );
        self.len += 1;
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// The next token; of equally likely ones the smallest comes first.
fn choose(logits: &[f32], options: &GenerateOptions, index: u64) -> u32 {
    let by_likelihood = |one: &u32, other: &u32| {
        let (left, right) = (logits[*one as usize], logits[*other as usize]);
        right.partial_cmp(&left).unwrap_or(Ordering::Equal).then(one.cmp(other))
    };
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    if options.temperature <= 0.0 {
        return tokens.into_iter().min_by(by_likelihood).unwrap_or(0);
    }
    if options.top_k > 0 && options.top_k < tokens.len() {
        tokens.select_nth_unstable_by(options.top_k - 1, by_likelihood);
        tokens.truncate(options.top_k);
    }
    tokens.sort_unstable_by(by_likelihood);
    let largest = tokens.first().map_or(0.0, |&token| f64::from(logits[token as usize]));
    let weight = |token: u32| {
        let score = (f64::from(logits[token as usize]) - largest) / options.temperature;
        f64::from(exp(score as f32))
    };
    let weights: Vec<f64> = tokens.iter().map(|&token| weight(token)).collect();
    let stream = Stream::new(options.seed, Purpose::Sampling, &[index]);
    let mut left = stream.uniform(0) * weights.iter().sum::<f64>();
    for (&token, weight) in tokens.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return token;
        }
    }
    tokens.first().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{CpuEngine, Engine};
    use crate::parameters::initial_parameters;

    fn generator(block_size: usize) -> Generator<'static> {
        let model = ModelConfig {
            vocab_size: 256,
            block_size,
            n_layer: 2,
            n_head: 3,
            n_embd: 39,
            dropout: 0.0,
            layer_norm_epsilon: 1e-5,
        };
        let mut parameters = initial_parameters(&Layout::new(&model), 1);
        parameters.iter_mut().for_each(|value| *value *= 8.0);
        Generator::new(model, parameters, Tokenizer::bytes())
    }

    /// The loss that the engine computes of a whole sequence is that of the cache's logits, token by token.
    #[test]
    fn the_cache_gives_the_bits_of_a_whole_pass() {
        let generator = generator(600);
        let tokens: Vec<u32> = (0..601_u32).map(|index| (index * index * 7 + 3) % 256).collect();
        let layout = Layout::new(&generator.model);
        let mut decoder = Decoder::new(&generator.model, layout.views(&generator.parameters));
        let mut engine = CpuEngine::new(&generator.model, 1, false);
        engine.loss(&generator.parameters, &tokens);
        for (place, &token) in tokens[..600].iter().enumerate() {
            decoder.step(token);
            if place % 71 == 0 || place > 590 {
                let whole = engine.logits(&generator.parameters, place);
                let same =
                    whole.iter().zip(&decoder.logits).all(|(one, other)| one.to_bits() == other.to_bits());
                assert!(same, "at {place}");
            }
        }
    }

    #[test]
    fn seeds_and_settings_decide() {
        let generator = generator(16);
        let options = GenerateOptions { max_new_tokens: 50, temperature: 1.0, top_k: 20, seed: 1 };
        let write = |options: &GenerateOptions| generator.generate("ab", options, &|| false).expect("text");
        assert_eq!(write(&options), write(&options));
        assert_ne!(write(&options), write(&GenerateOptions { seed: 2, ..options }));
        let greedy = GenerateOptions { temperature: 0.0, ..options };
        assert_eq!(write(&greedy), write(&GenerateOptions { seed: 2, ..greedy }));
        assert_eq!(write(&greedy), write(&GenerateOptions { top_k: 1, ..options }));
        assert!(matches!(generator.generate("", &options, &|| false), Err(GenerateError::EmptyPrompt)));
        assert_eq!(generator.generate("ab", &options, &|| true).expect("text"), "");
    }

    #[test]
    fn likelihoods_decide() {
        let options = GenerateOptions { max_new_tokens: 0, temperature: 1.0, top_k: 2, seed: 3 };
        let logits = [0.0, 3.0_f32.ln(), -5.0, -5.0];
        let ones = (0..4000).filter(|&index| choose(&logits, &options, index) == 1).count();
        assert!((ones as f64 / 4000.0 - 0.75).abs() < 0.03, "{ones}");
        assert!((0..500).all(|index| choose(&logits, &options, index) < 2));
        assert_eq!(choose(&[1.0, 1.0], &GenerateOptions { temperature: 0.0, ..options }, 0), 0);
    }
}
