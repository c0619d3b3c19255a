//! Generates text, one token at a time, with a cache of keys and values.
//!
//! Decoding uses the engine's own arithmetic: its logits have the same bits as those of a whole forward pass.

mod sampler;
mod stream;

use crate::hub::trained::{TrainedModel, TrainedModelError};
use keepstep::Checkpoint;
use keepstep_model::gpt2::decode::Decoder;
use keepstep_model::gpt2::settings::Gpt2Config;
use keepstep_model::ops::spin_pool::SpinPool;
use keepstep_text::tokenizer::{Tokenizer, TokenizerError};
use sampler::Sampler;
use std::borrow::Cow;
use stream::TextStream;
use thiserror::Error;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// The most new tokens; an end-of-text token ends the text earlier.
    pub max_new_tokens: usize,
    /// 0 always takes the likeliest token.
    pub temperature: f64,
    /// Sample from this many likeliest tokens; 0 means all.
    pub top_k: usize,
    /// The same seed gives the same text.
    pub seed: u64,
}

/// Why no text can be generated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The checkpoint holds no language model.
    #[error(transparent)]
    Checkpoint(#[from] TrainedModelError),
    /// The tokenizer cannot be used on this prompt.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The prompt is empty.
    #[error(
        "the prompt is empty, and this tokenizer has no end-of-text token to begin with: give at least one character"
    )]
    EmptyPrompt,
}

/// A trained model that generates text.
#[derive(Debug)]
pub struct Generator<'a> {
    model: Gpt2Config,
    parameters: Cow<'a, [f32]>,
    tokenizer: Tokenizer,
    /// Ids below the tokenizer's size that belong to no entry.
    holes: Vec<u32>,
}

impl<'a> Generator<'a> {
    /// Takes parameters in a flat buffer of the model's [`Layout`](keepstep_model::layout::Layout).
    pub fn new(
        model: Gpt2Config,
        parameters: impl Into<Cow<'a, [f32]>>,
        tokenizer: Tokenizer,
    ) -> Generator<'a> {
        let ids = 0..tokenizer.vocab_size() as u32;
        let holes = ids.filter(|&id| tokenizer.token(id).is_none()).collect();
        Generator { model, parameters: parameters.into(), tokenizer, holes }
    }

    /// Takes everything from a checkpoint.
    ///
    /// # Errors
    /// The checkpoint does not hold a language model.
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &str) -> Result<Generator<'a>, GenerateError> {
        let TrainedModel { model, parameters, tokenizer } = TrainedModel::from_checkpoint(checkpoint, place)?;
        Ok(Generator::new(model, parameters, tokenizer))
    }

    /// The logits of the token after `prompt`, `[vocab_size]`.
    ///
    /// # Errors
    /// The prompt is empty, or cannot be tokenized.
    pub fn logits(&self, prompt: &str) -> Result<Vec<f32>, GenerateError> {
        let context = self.tokenizer.encode(prompt)?;
        if context.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        let start = context.len().saturating_sub(self.model.block_size);
        Ok(self.decode(|decoder| {
            decoder.append(&context[start..]);
            decoder.logits().to_vec()
        }))
    }

    /// Continues `prompt` and returns the new text alone. Calls `stop` before each token and ends when it returns true.
    ///
    /// When the context is full, generation goes on with its last half.
    ///
    /// # Errors
    /// The prompt is empty or cannot be tokenized.
    pub fn generate(
        &self,
        prompt: &str,
        options: &GenerateOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<String, GenerateError> {
        self.stream(prompt, options, stop, &mut |_| ())
    }

    /// Continues `prompt` and passes the text to `write` as it comes, in pieces of whole characters.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn stream(
        &self,
        prompt: &str,
        options: &GenerateOptions,
        stop: &dyn Fn() -> bool,
        write: &mut dyn FnMut(&str),
    ) -> Result<String, GenerateError> {
        let mut context = self.tokenizer.encode(prompt)?;
        if context.is_empty() {
            context.push(self.tokenizer.end_of_text().ok_or(GenerateError::EmptyPrompt)?);
        }
        self.decode(|decoder| {
            let block_size = self.model.block_size;
            let mut text = TextStream::new(&self.tokenizer);
            let mut sampler = Sampler::new(options);
            // Tokens of the context that the decoder has processed.
            let mut seen = context.len().saturating_sub(block_size);
            for index in 0..options.max_new_tokens {
                if stop() {
                    break;
                }
                if decoder.len() == block_size {
                    decoder.clear();
                    seen = context.len() - (block_size / 2).max(1);
                }
                decoder.append(&context[seen..]);
                seen = context.len();
                // Padding rows of the embedding are not tokens.
                let logits = decoder.logits();
                let logits = &logits[..logits.len().min(self.tokenizer.vocab_size())];
                let token = if self.holes.is_empty() {
                    sampler.choose(logits, index as u64)
                } else {
                    let mut logits = logits.to_vec();
                    self.holes.iter().for_each(|&id| logits[id as usize] = f32::NEG_INFINITY);
                    sampler.choose(&logits, index as u64)
                };
                if Some(token) == self.tokenizer.end_of_text() {
                    break;
                }
                context.push(token);
                write(text.push(token)?);
            }
            let (rest, all) = text.finish()?;
            write(&rest);
            Ok(all)
        })
    }

    /// Runs `work` with a decoder that uses as many threads as the current pool.
    fn decode<T>(&self, work: impl FnOnce(&mut Decoder<'_>) -> T) -> T {
        let layout = self.model.layout();
        SpinPool::scope(rayon::current_num_threads(), |pool| {
            work(&mut Decoder::new(&self.model, self.model.views(&layout, &self.parameters), pool))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepstep_model::gpt2::layout::initial_parameters;

    pub(super) fn generator(block_size: usize) -> Generator<'static> {
        let model = Gpt2Config {
            vocab_size: 256,
            block_size,
            n_layer: 2,
            n_head: 3,
            n_embd: 39,
            dropout: 0.0,
            layer_norm_epsilon: 1e-5,
        };
        let mut parameters = initial_parameters(&model, 1);
        parameters.iter_mut().for_each(|value| *value *= 8.0);
        Generator::new(model, parameters, Tokenizer::bytes())
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

    /// What is written as it comes is the text, and it goes on beyond the context's end.
    #[test]
    fn the_stream_is_the_text() {
        let generator = generator(16);
        let options = GenerateOptions { max_new_tokens: 100, temperature: 1.0, top_k: 0, seed: 4 };
        let (mut pieces, mut out) = (0, String::new());
        let all = generator.stream("a prompt longer than the context", &options, &|| false, &mut |text| {
            pieces += usize::from(!text.is_empty());
            out.push_str(text);
        });
        assert_eq!(out, all.expect("text"));
        assert!(pieces > 10, "{pieces}");
    }
}
