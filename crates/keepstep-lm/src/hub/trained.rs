//! The model in a checkpoint, ready to generate text or to be exported.

use crate::config::{ConfigError, StoredConfig};
use keepstep::Checkpoint;
use keepstep::identity::TOKENIZER;
use keepstep_model::gpt2::settings::Gpt2Config;
use keepstep_model::train::state_dict::{self, StateDictError};
use keepstep_text::tokenizer::{Tokenizer, TokenizerError};
use thiserror::Error;

/// The sizes, the weights and the tokenizer of a model.
#[derive(Debug, Clone)]
pub struct TrainedModel {
    /// The sizes.
    pub model: Gpt2Config,
    /// The weights, in a buffer of the model's [`Layout`](keepstep_model::layout::Layout).
    pub parameters: Vec<f32>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
}

/// Why a checkpoint does not provide a language model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainedModelError {
    /// The config in the checkpoint does not describe a language model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer in the checkpoint cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tensors in the checkpoint do not fit its config.
    #[error(transparent)]
    State(#[from] StateDictError),
}

impl TrainedModel {
    /// Reads the model of a checkpoint. Errors use `place` as the name of the checkpoint.
    ///
    /// # Errors
    /// See [`TrainedModelError`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &str) -> Result<TrainedModel, TrainedModelError> {
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
