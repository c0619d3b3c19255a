//! The sizes of a GPT-2 model.

use crate::ops::attention::Attention;
use keepstep::settings;

settings! {
    /// The sizes of a GPT-2 model.
    pub struct Gpt2Settings {
        /// The longest context, in tokens.
        result block_size: usize = 128,
        /// Number of transformer blocks.
        result n_layer: usize = 4,
        /// Number of attention heads.
        result n_head: usize = 4,
        /// Width of the residual stream.
        result n_embd: usize = 128,
        /// Probability of dropping an element.
        result dropout: f64 = 0.0,
        /// Epsilon that LayerNorm adds to the variance.
        result layer_norm_epsilon: f64 = 1e-5,
        /// Rows of the token embedding. At least the size of the tokenizer's vocabulary, which is the default. Rows
        /// beyond the vocabulary are padding: they are trained with the rest and never generated.
        result vocab_size: Option<usize> = None,
    }
}

/// A GPT-2 as `transformers.GPT2LMHeadModel` defines it: pre-LayerNorm, tanh-GELU, learned positions, tied head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpt2Config {
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// The longest context, in tokens (`n_positions`).
    pub block_size: usize,
    /// Number of transformer blocks.
    pub n_layer: usize,
    /// Number of attention heads. It divides `n_embd`.
    pub n_head: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Probability of dropping an element: of the embedding, of each attention weight, of each block's two outputs.
    pub dropout: f64,
    /// Epsilon that LayerNorm adds to the variance (`layer_norm_epsilon`).
    pub layer_norm_epsilon: f64,
}

impl Gpt2Config {
    /// Returns the width of one head.
    pub fn head_size(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Returns the sizes of the attention.
    pub(crate) fn attention(&self) -> Attention {
        Attention::new(self.block_size, self.n_head, self.n_embd)
    }

    /// Returns the width of the hidden layer of a block's MLP.
    pub fn n_inner(&self) -> usize {
        4 * self.n_embd
    }
}

impl Gpt2Settings {
    /// Returns the model's config for a tokenizer of `num_tokens` entries.
    pub fn with_tokens(&self, num_tokens: usize) -> Gpt2Config {
        let Gpt2Settings { block_size, n_layer, n_head, n_embd, dropout, layer_norm_epsilon, vocab_size } =
            *self;
        let vocab_size = vocab_size.unwrap_or(num_tokens);
        Gpt2Config { vocab_size, block_size, n_layer, n_head, n_embd, dropout, layer_norm_epsilon }
    }
}
