//! The errors of an engine.

use thiserror::Error;

/// An input that an engine refuses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The batch has the wrong shape.
    #[error(
        "a micro-batch of {found} tokens: expected 1 to {batch_size} sequences of {sequence_len} tokens each"
    )]
    Batch {
        /// The number of tokens.
        found: usize,
        /// The largest number of sequences that the engine takes.
        batch_size: usize,
        /// The number of tokens in one sequence, including the last target.
        sequence_len: usize,
    },
    /// The vocabulary does not have this token.
    #[error("token {token} in a micro-batch: the model's vocabulary has {vocab_size} entries")]
    Token {
        /// The token's id.
        token: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// The update already has this leaf.
    #[error("micro-batch {leaf} is already part of the update")]
    Repeated {
        /// The first repeated leaf.
        leaf: u64,
    },
    /// The update ends without this leaf.
    #[error("micro-batch {leaf} of the update is missing")]
    Missing {
        /// The first missing leaf.
        leaf: u64,
    },
    /// The state or the gradients belong to another model.
    #[error("{found} values for a model of {expected} parameters")]
    Layout {
        /// The model's number of parameters.
        expected: usize,
        /// The number of values in the state or the gradients.
        found: usize,
    },
}
