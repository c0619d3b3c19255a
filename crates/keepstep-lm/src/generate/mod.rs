//! Generates text, one token at a time, with a cache of keys and values.
//!
//! Decoding uses the engine's own arithmetic: its logits have the same bits as those of a whole forward pass.

mod batch;
mod sampler;
mod stream;

use crate::available_memory::available;
use crate::hub::trained::{TrainedModel, TrainedModelError};
use batch::Batch;
use keepstep::Checkpoint;
use keepstep_model::gpt2::decode::{Decoder, DecoderWeights, PanelParameters};
use keepstep_model::gpt2::settings::Gpt2Config;
use keepstep_model::ops::spin_pool::SpinPool;
use keepstep_text::tokenizer::{Tokenizer, TokenizerError};
use std::borrow::Cow;
use thiserror::Error;

/// The most texts that are computed at once. More would gain nothing: the arithmetic takes longer than the reads by then.
const MAX_AT_ONCE: usize = 64;

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

/// In panels, a token is decoded faster. Those of others stay as they are: a copy might find no room.
#[derive(Debug)]
enum Parameters<'a> {
    Borrowed(&'a [f32]),
    Panels(PanelParameters),
}

/// A trained model that generates text.
#[derive(Debug)]
pub struct Generator<'a> {
    model: Gpt2Config,
    parameters: Parameters<'a>,
    tokenizer: Tokenizer,
    /// Ids below the tokenizer's size that belong to no entry.
    holes: Vec<u32>,
}

impl<'a> Generator<'a> {
    /// Takes parameters in a flat buffer of the model's [`Layout`](keepstep_model::layout::Layout). Owned ones are
    /// rearranged in place, which makes tokens of large models faster by a fifth.
    ///
    /// # Panics
    /// If there are not as many as the model has parameters.
    pub fn new(
        model: Gpt2Config,
        parameters: impl Into<Cow<'a, [f32]>>,
        tokenizer: Tokenizer,
    ) -> Generator<'a> {
        let ids = 0..tokenizer.vocab_size() as u32;
        let holes = ids.filter(|&id| tokenizer.token(id).is_none()).collect();
        let parameters = match parameters.into() {
            Cow::Borrowed(parameters) => Parameters::Borrowed(parameters),
            Cow::Owned(parameters) => {
                let threads = rayon::current_num_threads();
                Parameters::Panels(PanelParameters::new(&model, parameters, threads))
            }
        };
        Generator { model, parameters, tokenizer, holes }
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
        let context = &context[start..];
        Ok(self.decode(context.len(), |decoder, _| {
            decoder.append(&[context]);
            decoder.logits(0).to_vec()
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
        let mut all = String::new();
        self.write_samples(prompt, options, 1, stop, &mut |_, text| write(text), &mut |text| all = text)?;
        Ok(all)
    }

    /// Continues `prompt` in `num_samples` ways, which are computed together: they share the reads of the weights.
    /// Passes each new text to `done`, in order, when it and those before it are complete.
    ///
    /// A text depends on its index and not on `num_samples`, and the first is that of [`Generator::generate`]. When
    /// `stop` returns true, the texts that have begun end there.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn samples(
        &self,
        prompt: &str,
        options: &GenerateOptions,
        num_samples: usize,
        stop: &dyn Fn() -> bool,
        done: &mut dyn FnMut(String),
    ) -> Result<(), GenerateError> {
        self.write_samples(prompt, options, num_samples, stop, &mut |_, _| (), done)
    }

    fn write_samples(
        &self,
        prompt: &str,
        options: &GenerateOptions,
        num_samples: usize,
        stop: &dyn Fn() -> bool,
        write: &mut dyn FnMut(usize, &str),
        done: &mut dyn FnMut(String),
    ) -> Result<(), GenerateError> {
        let mut context = self.tokenizer.encode(prompt)?;
        if context.is_empty() {
            context.push(self.tokenizer.end_of_text().ok_or(GenerateError::EmptyPrompt)?);
        }
        let start = context.len().saturating_sub(self.model.block_size);
        let context = &context[start..];
        let capacity = self.model.block_size.min(context.len().saturating_add(options.max_new_tokens));
        let at_once = self.num_at_once(num_samples, capacity);
        for first in (0..num_samples).step_by(at_once) {
            let indices = first..num_samples.min(first + at_once);
            self.decode(capacity, |decoder, pool| {
                Batch::new(self, options, context, indices).run(decoder, pool, stop, write, done)
            })?;
            if stop() {
                break;
            }
        }
        Ok(())
    }

    /// The number of texts to compute at once: no more than share the reads of weights well, and than memory has room
    /// for.
    fn num_at_once(&self, num_samples: usize, capacity: usize) -> usize {
        let bytes = Decoder::sequence_bytes(&self.model, capacity).max(1);
        let room = available().map_or(u64::MAX, |available| available.bytes / bytes);
        num_samples.min(MAX_AT_ONCE).min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
    }

    /// Runs `work` with a decoder that uses as many threads as the current pool.
    fn decode<T>(&self, capacity: usize, work: impl FnOnce(&mut Decoder<'_>, &SpinPool) -> T) -> T {
        let layout = self.model.layout();
        SpinPool::scope(rayon::current_num_threads(), |pool| {
            let weights = match &self.parameters {
                Parameters::Borrowed(values) => DecoderWeights::in_place(self.model.views(&layout, values)),
                Parameters::Panels(values) => values.weights(&self.model, &layout),
            };
            work(&mut Decoder::new(&self.model, weights, pool, capacity), pool)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepstep_model::gpt2::layout::initial_parameters;
    use keepstep_model::testing::decodable;
    use keepstep_text::tokenizer::WordCounts;

    pub(super) fn generator(block_size: usize) -> Generator<'static> {
        let (model, parameters) = decodable(256, block_size);
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

    /// Each text of several is the one that it is among any number of texts, and the first is the single one.
    #[test]
    fn samples_do_not_depend_on_their_number() {
        let generator = generator(16);
        for (prompt, max_new_tokens) in [("ab", 70), ("a prompt longer than the context", 40), ("a", 0)] {
            for temperature in [0.0, 1.0] {
                let options = GenerateOptions { max_new_tokens, temperature, top_k: 0, seed: 4 };
                let samples = |count| {
                    let mut texts = Vec::new();
                    generator
                        .samples(prompt, &options, count, &|| false, &mut |text| texts.push(text))
                        .expect("texts");
                    texts
                };
                let all = samples(70);
                assert_eq!(all.len(), 70);
                let single = generator.generate(prompt, &options, &|| false).expect("text");
                assert_eq!(all[0], single);
                let different = all.iter().filter(|text| **text != single).count();
                let expected = if temperature > 0.0 && max_new_tokens > 0 { 69 } else { 0 };
                assert_eq!(different, expected, "{prompt}, {temperature}");
                for count in [1, 2, 5] {
                    assert_eq!(samples(count), all[..count], "{prompt}, {temperature}, {count}");
                }
            }
        }
    }

    /// A text that ends early leaves the others as they are.
    #[test]
    fn samples_end_at_their_ends() {
        let words = WordCounts::from_texts(&["the end of the text, the end of the text"]);
        let tokenizer = Tokenizer::train_bpe(&words, 265, &mut |_, _| true).expect("a tokenizer");
        let generator = Generator { tokenizer, ..generator(16) };
        let model = Gpt2Config { vocab_size: 265, ..generator.model };
        let generator = Generator::new(model, initial_parameters(&model, 1), generator.tokenizer);
        let options = GenerateOptions { max_new_tokens: 90, temperature: 1.0, top_k: 0, seed: 4 };
        let samples = |count| {
            let mut texts = Vec::new();
            let done = &mut |text| texts.push(text);
            generator.samples("the end", &options, count, &|| false, done).expect("texts");
            texts
        };
        let all = samples(40);
        let short = all.iter().filter(|text| text.len() < 60).count();
        assert!((3..30).contains(&short), "{short}");
        for count in [1, 9, 20] {
            assert_eq!(samples(count), all[..count]);
        }
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
