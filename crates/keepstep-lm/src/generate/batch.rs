//! Several texts from one prompt, computed together.

use super::sampler::Sampler;
use super::stream::TextStream;
use super::{GenerateError, GenerateOptions, Generator};
use keepstep_model::gpt2::decode::Decoder;
use keepstep_model::ops::spin_pool::SpinPool;
use std::ops::Range;

/// Texts with the same prompt and options. They grow by one token at a time.
pub(super) struct Batch<'a> {
    generator: &'a Generator<'a>,
    options: &'a GenerateOptions,
    /// The prompt, at most the model's context.
    prompt: &'a [u32],
    first: usize,
    growing: Vec<Growing<'a>>,
    /// The complete texts, by index. Those that were passed on are removed from the front.
    complete: Vec<Option<String>>,
    num_done: usize,
}

/// A text that is not complete.
struct Growing<'a> {
    index: usize,
    /// The prompt and the new tokens.
    context: Vec<u32>,
    text: TextStream<'a>,
    sampler: Sampler<'a>,
    /// Logits without those of ids that belong to no token.
    logits: Vec<f32>,
    next: u32,
}

impl<'a> Batch<'a> {
    /// Creates the texts with these indices.
    pub(super) fn new(
        generator: &'a Generator<'a>,
        options: &'a GenerateOptions,
        prompt: &'a [u32],
        indices: Range<usize>,
    ) -> Batch<'a> {
        let growing = |index: usize| Growing {
            index,
            context: prompt.to_vec(),
            text: TextStream::new(&generator.tokenizer),
            sampler: Sampler::new(options, index as u64),
            logits: Vec::new(),
            next: 0,
        };
        let complete = indices.clone().map(|_| None).collect();
        let first = indices.start;
        let growing = indices.map(growing).collect();
        Batch { generator, options, prompt, first, growing, complete, num_done: 0 }
    }

    /// Lets the texts grow to their ends, or until `stop` returns true. Passes pieces of each text to `write` as they
    /// come, and whole texts to `done` in order.
    pub(super) fn run(
        mut self,
        decoder: &mut Decoder<'_>,
        pool: &SpinPool,
        stop: &dyn Fn() -> bool,
        write: &mut dyn FnMut(usize, &str),
        done: &mut dyn FnMut(String),
    ) -> Result<(), GenerateError> {
        let block_size = self.generator.model.block_size;
        // Tokens of the contexts that the decoder has processed.
        let mut seen = 0;
        for index in 0..self.options.max_new_tokens {
            if stop() || self.growing.is_empty() {
                break;
            }
            let len = self.prompt.len() + index;
            if index == 0 {
                decoder.append(&[self.prompt]);
                decoder.fork(self.growing.len());
            } else {
                if decoder.len() == block_size {
                    decoder.clear();
                    seen = len - (block_size / 2).max(1);
                }
                let new: Vec<&[u32]> = self.growing.iter().map(|growing| &growing.context[seen..]).collect();
                decoder.append(&new);
            }
            seen = len;
            self.choose(decoder, pool, index as u64);
            self.grow(decoder, write, done)?;
        }
        while let Some(growing) = self.growing.pop() {
            self.complete(growing, write)?;
        }
        self.pass_on(done);
        Ok(())
    }

    /// Chooses the next token of each text.
    fn choose(&mut self, decoder: &Decoder<'_>, pool: &SpinPool, index: u64) {
        let Generator { tokenizer, holes, .. } = self.generator;
        let growing = self.growing.iter_mut().enumerate().collect();
        pool.for_each(growing, |(sequence, growing): (usize, &mut Growing<'_>)| {
            // Padding rows of the embedding are not tokens.
            let logits = decoder.logits(sequence);
            let mut logits = &logits[..logits.len().min(tokenizer.vocab_size())];
            if !holes.is_empty() {
                growing.logits.clear();
                growing.logits.extend_from_slice(logits);
                holes.iter().for_each(|&id| growing.logits[id as usize] = f32::NEG_INFINITY);
                logits = &growing.logits;
            }
            growing.next = growing.sampler.choose(logits, index);
        });
    }

    /// Appends the chosen tokens, and completes the texts that end.
    fn grow(
        &mut self,
        decoder: &mut Decoder<'_>,
        write: &mut dyn FnMut(usize, &str),
        done: &mut dyn FnMut(String),
    ) -> Result<(), GenerateError> {
        let end_of_text = self.generator.tokenizer.end_of_text();
        for sequence in (0..self.growing.len()).rev() {
            let growing = &mut self.growing[sequence];
            if Some(growing.next) == end_of_text {
                let growing = self.growing.remove(sequence);
                decoder.remove(sequence);
                self.complete(growing, write)?;
            } else {
                growing.context.push(growing.next);
                write(growing.index, growing.text.push(growing.next)?);
            }
        }
        self.pass_on(done);
        Ok(())
    }

    fn complete(
        &mut self,
        growing: Growing<'_>,
        write: &mut dyn FnMut(usize, &str),
    ) -> Result<(), GenerateError> {
        let (rest, all) = growing.text.finish()?;
        write(growing.index, &rest);
        self.complete[growing.index - self.first] = Some(all);
        Ok(())
    }

    /// Passes on the complete texts that no earlier text holds back.
    fn pass_on(&mut self, done: &mut dyn FnMut(String)) {
        while let Some(text) = self.complete.get_mut(self.num_done).and_then(Option::take) {
            self.num_done += 1;
            done(text);
        }
    }
}
