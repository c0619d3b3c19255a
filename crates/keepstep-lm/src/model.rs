//! The sizes of a GPT-2 model.

/// A GPT-2 as `transformers.GPT2LMHeadModel` defines it: pre-LayerNorm, tanh-GELU, learned positions, tied head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelConfig {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// The longest context, in tokens (`n_positions`).
    pub block_size: usize,
    /// Transformer blocks.
    pub n_layer: usize,
    /// Attention heads; divides `n_embd`.
    pub n_head: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Probability of dropping an element: of the embedding, of each attention weight, of each block's two outputs.
    pub dropout: f64,
    /// Added to the variance (`layer_norm_epsilon`).
    pub layer_norm_epsilon: f64,
}

impl ModelConfig {
    /// Width of one head.
    pub fn head_size(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Width of the hidden layer of a block's MLP.
    pub fn n_inner(&self) -> usize {
        4 * self.n_embd
    }
}
