//! Short sample texts after evaluations, which show the model's progress. They are written to the journal and never
//! reach a checkpoint.

use crate::config::{Config, SampleConfig};
use crate::generate::{GenerateOptions, Generator};
use keepstep::Run;
use keepstep::cadence::Cadence;
use keepstep::journal::curve::has_sample;
use keepstep_text::tokenizer::Tokenizer;
use std::cell::Cell;
use std::path::Path;

/// Generates one text after each evaluation.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    max_new_tokens: usize,
    /// Whether a text is still to be generated for the last evaluation.
    due: bool,
    failed: bool,
}

impl Sampler {
    /// Creates a sampler. A text is due immediately if an earlier session stopped between an evaluation and its text.
    pub(super) fn new(config: &Config, folder: &Path, run: &Run) -> Sampler {
        // One context length of tokens is enough to show the model's progress.
        let max_new_tokens = config.sample.at_evaluation.min(config.model.block_size);
        let position = run.position();
        let is_evaluated = run.metrics().val_loss.is_some()
            && !run.evaluation_is_due()
            && Cadence::new(config.save_steps, Some(config.eval_steps))
                .evaluation_is_due(run.plan(), position);
        let due = max_new_tokens > 0 && is_evaluated && !has_sample(folder, position.global_step);
        Sampler { max_new_tokens, due, failed: false }
    }

    pub(super) fn evaluated(&mut self) {
        self.due = self.max_new_tokens > 0;
    }

    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// Generates the text that is due. Returns `None` if `stop` comes first; the next session then generates it. A
    /// failure is returned once.
    pub(super) fn write(
        &mut self,
        config: &Config,
        parameters: &[f32],
        tokenizer: &Tokenizer,
        stop: &dyn Fn() -> bool,
    ) -> Option<Result<String, String>> {
        self.due = false;
        let stopped = Cell::new(false);
        let ask = || {
            stopped.set(stopped.get() || stop());
            stopped.get()
        };
        match generate(config, self.max_new_tokens, parameters, tokenizer, &ask) {
            Ok(_) if stopped.get() => None,
            Ok(text) => Some(Ok(text)),
            Err(_) if std::mem::replace(&mut self.failed, true) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Continues the config's prompt with the model.
pub(super) fn generate(
    config: &Config,
    max_new_tokens: usize,
    parameters: &[f32],
    tokenizer: &Tokenizer,
    stop: &dyn Fn() -> bool,
) -> Result<String, String> {
    let SampleConfig { ref prompt, temperature, top_k, seed, .. } = config.sample;
    let options = GenerateOptions { max_new_tokens, temperature, top_k, seed };
    let model = config.model_config(tokenizer.vocab_size()).map_err(|error| error.to_string())?;
    let generator = Generator::new(model, parameters, tokenizer.clone());
    generator.generate(prompt, &options, stop).map_err(|error| error.to_string())
}
