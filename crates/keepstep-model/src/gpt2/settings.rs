//! The sizes of a GPT-2 model.

use crate::ops::attention::Attention;
use keepstep::settings;

settings! {
    /// The sizes of the GPT-2.
    pub struct Gpt2Settings {
        /// The longest context, in tokens.
        result block_size: usize = 128,
        /// Transformer blocks.
        result n_layer: usize = 4,
        /// Attention heads.
        result n_head: usize = 4,
        /// Width of the residual stream.
        result n_embd: usize = 128,
        /// Probability of dropping an element.
        result dropout: f64 = 0.0,
        /// Added to the variance in LayerNorm.
        result layer_norm_epsilon: f64 = 1e-5,
        /// Rows of the token embedding, at least as many as the tokenizer has entries; as many if not set. Rows beyond them
        /// are padding: they are trained with the rest and never generated.
        result vocab_size: Option<usize> = None,
    }
}

/// A GPT-2 as `transformers.GPT2LMHeadModel` defines it: pre-LayerNorm, tanh-GELU, learned positions, tied head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpt2Config {
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

impl Gpt2Config {
    /// Width of one head.
    pub fn head_size(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// The sizes of the attention.
    pub(crate) fn attention(&self) -> Attention {
        Attention::new(self.block_size, self.n_head, self.n_embd)
    }

    /// Width of the hidden layer of a block's MLP.
    pub fn n_inner(&self) -> usize {
        4 * self.n_embd
    }
}

impl Gpt2Settings {
    /// The model of these sizes for a tokenizer of `num_tokens` entries.
    pub fn with_tokens(&self, num_tokens: usize) -> Gpt2Config {
        let Gpt2Settings { block_size, n_layer, n_head, n_embd, dropout, layer_norm_epsilon, vocab_size } =
            *self;
        let vocab_size = vocab_size.unwrap_or(num_tokens);
        Gpt2Config { vocab_size, block_size, n_layer, n_head, n_embd, dropout, layer_norm_epsilon }
    }
}
