//! What can go wrong in an engine.

use thiserror::Error;

/// Something an engine cannot compute.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A batch of another shape.
    #[error(
        "a micro-batch of {found} tokens: expected 1 to {batch_size} sequences of {sequence_len} tokens each"
    )]
    Batch {
        /// The number of tokens.
        found: usize,
        /// The most sequences that the engine takes.
        batch_size: usize,
        /// The tokens of one sequence, the last target included.
        sequence_len: usize,
    },
    /// A token that the model does not have.
    #[error("token {token} in a micro-batch: the model's vocabulary has {vocab_size} entries")]
    Token {
        /// The token.
        token: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// A leaf that the update already has.
    #[error("micro-batch {leaf} is in the update already")]
    Repeated {
        /// The first leaf that is there twice.
        leaf: u64,
    },
    /// A leaf that is missing where an update ends.
    #[error("micro-batch {leaf} of the update is missing")]
    Missing {
        /// The first missing leaf.
        leaf: u64,
    },
    /// State or gradients of another model.
    #[error("{found} values for a model of {expected} parameters")]
    Layout {
        /// The model's number of parameters.
        expected: usize,
        /// The number of values.
        found: usize,
    },
}
