//! The model in a checkpoint: enough to generate text or to export it.

use crate::config::{ConfigError, StoredConfig};
use keepstep::Checkpoint;
use keepstep::identity::TOKENIZER;
use keepstep_model::gpt2::settings::Gpt2Config;
use keepstep_model::train::state_dict::{self, StateDictError};
use keepstep_text::tokenizer::{Tokenizer, TokenizerError};
use thiserror::Error;

/// Sizes, weights and tokenizer.
#[derive(Debug, Clone)]
pub struct TrainedModel {
    /// The sizes.
    pub model: Gpt2Config,
    /// The weights, in a buffer of the model's [`Layout`](keepstep_model::layout::Layout).
    pub parameters: Vec<f32>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
}

/// A checkpoint that holds no language model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainedModelError {
    /// Its config is not one of a language model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its tensors are not those of its config.
    #[error(transparent)]
    State(#[from] StateDictError),
}

impl TrainedModel {
    /// The model of a checkpoint; `place` is what errors call it.
    ///
    /// # Errors
    /// See [`TrainedModelError`].
    pub fn of_checkpoint(checkpoint: &Checkpoint, place: &str) -> Result<TrainedModel, TrainedModelError> {
        let config = StoredConfig::from_checkpoint(checkpoint).to_config("-")?;
        let tokenizer =
            Tokenizer::from_json(checkpoint.identity.input(TOKENIZER).unwrap_or_default(), place)?;
        let model = config.model_config(tokenizer.vocab_size())?;
        let layout = model.layout();
        let mut parameters = vec![0.0; layout.num_parameters()];
        state_dict::load_model(checkpoint.state.part("model"), &layout, &mut parameters)?;
        Ok(TrainedModel { model, parameters, tokenizer })
    }
}
