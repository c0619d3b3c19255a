//! The texts that a session writes, after evaluations and at its end.

use super::Session;
use crate::trainer::sampler;
use std::sync::atomic::Ordering;

impl Session<'_> {
    pub(super) fn sample(&mut self) -> Option<Result<String, String>> {
        let Session { config, control, clock, learner, tokenizer, .. } = self;
        let max_new_tokens = config.sample.max_new_tokens;
        let stop = || control.stop.load(Ordering::SeqCst) || clock.is_over_unsaved();
        (max_new_tokens > 0).then(|| {
            let snapshot = learner.snapshot().map_err(|error| error.to_string())?;
            sampler::generate(config, max_new_tokens, &snapshot.parameters, tokenizer, &stop)
        })
    }

    /// Generates a short text after each evaluation, once everything due is saved or being saved.
    pub(super) fn write_sample(&mut self) {
        if !self.sampler.is_due() {
            return;
        }
        let Session { config, control, clock, learner, tokenizer, sampler, .. } = self;
        let stop = || control.stop.load(Ordering::SeqCst) || clock.is_over();
        let text = match learner.snapshot() {
            Ok(snapshot) => sampler.write(config, &snapshot.parameters, tokenizer, &stop),
            Err(error) => Some(Err(error.to_string())),
        };
        match text {
            Some(Ok(text)) => {
                let sample = self.run.record_sample(&config.sample.prompt, &text);
                self.observer.sampled(&sample);
            }
            Some(Err(error)) => self.observer.note(&format!("No texts are written at evaluations: {error}")),
            None => {}
        }
    }
}
