//! GPT-2's parameters in one flat buffer: order and shapes of `GPT2LMHeadModel.named_parameters()`, views by name, and
//! initial values.

use crate::gpt2::settings::Gpt2Config;
use crate::layout::Layout;
use crate::ops::affine::Affine;
use keepstep::rng::{Purpose, Stream};
use keepstep_numerics::math::{cos_pi, ln};

impl Gpt2Config {
    /// Returns the offset of every parameter, in the order of `GPT2LMHeadModel.named_parameters()`. The head is tied to
    /// the token embedding, which comes first.
    pub fn layout(&self) -> Layout {
        let (width, inner) = (self.n_embd, self.n_inner());
        let mut layout = Layout::new();
        layout.push("transformer.wte.weight", &[self.vocab_size, width]);
        layout.push("transformer.wpe.weight", &[self.block_size, width]);
        for layer in 0..self.n_layer {
            for (name, shape) in [
                ("ln_1.weight", &[width][..]),
                ("ln_1.bias", &[width]),
                ("attn.c_attn.weight", &[width, 3 * width]),
                ("attn.c_attn.bias", &[3 * width]),
                ("attn.c_proj.weight", &[width, width]),
                ("attn.c_proj.bias", &[width]),
                ("ln_2.weight", &[width]),
                ("ln_2.bias", &[width]),
                ("mlp.c_fc.weight", &[width, inner]),
                ("mlp.c_fc.bias", &[inner]),
                ("mlp.c_proj.weight", &[inner, width]),
                ("mlp.c_proj.bias", &[width]),
            ] {
                layout.push(&format!("transformer.h.{layer}.{name}"), shape);
            }
        }
        layout.push("transformer.ln_f.weight", &[width]);
        layout.push("transformer.ln_f.bias", &[width]);
        layout.tie("lm_head.weight", 0);
        layout
    }

    /// Returns the tensors of a buffer by name.
    ///
    /// # Panics
    /// If `layout` is not that of this model, or `flat` has another length.
    pub fn views<'a>(&self, layout: &Layout, flat: &'a [f32]) -> Views<&'a [f32]> {
        Views::new(self.n_layer, layout.split(flat))
    }

    /// Returns the mutable tensors of a buffer by name.
    ///
    /// # Panics
    /// If `layout` is not that of this model, or `flat` has another length.
    pub fn views_mut<'a>(&self, layout: &Layout, flat: &'a mut [f32]) -> Views<&'a mut [f32]> {
        Views::new(self.n_layer, layout.split_mut(flat))
    }
}

/// The tensors of a model, by name.
pub struct Views<S> {
    /// Token embedding, `[vocab_size, n_embd]`. It is also the head's weight.
    pub wte: S,
    /// Position embedding, `[block_size, n_embd]`.
    pub wpe: S,
    /// The blocks, first to last.
    pub layers: Vec<LayerViews<S>>,
    /// The last LayerNorm, `[n_embd]`.
    pub ln_f: Affine<S>,
}

/// The tensors of one block.
pub struct LayerViews<S> {
    /// LayerNorm before the attention, `[n_embd]`.
    pub ln_1: Affine<S>,
    /// Queries, keys and values, `[n_embd, 3 * n_embd]`.
    pub attn_c_attn: Affine<S>,
    /// The attention's projection, `[n_embd, n_embd]`.
    pub attn_c_proj: Affine<S>,
    /// LayerNorm before the MLP, `[n_embd]`.
    pub ln_2: Affine<S>,
    /// The MLP's first layer, `[n_embd, 4 * n_embd]`.
    pub mlp_c_fc: Affine<S>,
    /// The MLP's second layer, `[4 * n_embd, n_embd]`.
    pub mlp_c_proj: Affine<S>,
}

impl<S> Views<S> {
    fn new(n_layer: usize, mut parts: impl Iterator<Item = S>) -> Views<S> {
        let mut next = || parts.next().unwrap_or_else(|| unreachable!("a layout has every tensor"));
        let (wte, wpe) = (next(), next());
        let mut affine = || Affine { weight: next(), bias: next() };
        let layers = (0..n_layer)
            .map(|_| LayerViews {
                ln_1: affine(),
                attn_c_attn: affine(),
                attn_c_proj: affine(),
                ln_2: affine(),
                mlp_c_fc: affine(),
                mlp_c_proj: affine(),
            })
            .collect();
        Views { wte, wpe, layers, ln_f: affine() }
    }
}

/// Draws initial values with the distribution of `GPT2PreTrainedModel._init_weights`: normal with standard deviation
/// 0.02, or 0.02 / sqrt(2 * n_layer) for projections into the residual stream. Biases are 0. LayerNorm has weight 1 and
/// bias 0.
pub fn initial_parameters(model: &Gpt2Config, seed: u64) -> Vec<f32> {
    const STD: f64 = 0.02;
    let layout = model.layout();
    let mut values = vec![0.0; layout.num_parameters()];
    for (index, tensor) in layout.tensors().iter().enumerate() {
        let out = &mut values[tensor.range()];
        if tensor.decay {
            let is_residual = tensor.name.ends_with("c_proj.weight");
            let std = if is_residual { STD / ((2 * model.n_layer) as f64).sqrt() } else { STD };
            fill_normal(out, std, &Stream::new(seed, Purpose::Initialization, &[index as u64]));
        } else if tensor.name.ends_with(".weight") {
            out.fill(1.0);
        }
    }
    values
}

/// Fills `out` by the Box-Muller transform: two normal values from two uniform ones.
fn fill_normal(out: &mut [f32], std: f64, stream: &Stream) {
    for (pair, out) in out.chunks_mut(2).enumerate() {
        let (first, second) = (stream.uniform(2 * pair as u64), stream.uniform(2 * pair as u64 + 1));
        // In (0, 1]: the logarithm must be finite.
        let radius = std * (-2.0 * ln(1.0 - first)).sqrt();
        out[0] = (radius * cos_pi(2.0 * second)) as f32;
        if let Some(out) = out.get_mut(1) {
            // sin x = cos(x - pi / 2)
            *out = (radius * cos_pi(2.0 * second - 0.5)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Gpt2Config {
        Gpt2Config {
            vocab_size: 300,
            block_size: 16,
            n_layer: 2,
            n_head: 2,
            n_embd: 32,
            dropout: 0.0,
            layer_norm_epsilon: 1e-5,
        }
    }

    #[test]
    fn tensors_lie_one_after_the_other() {
        let layout = model().layout();
        assert_eq!(layout.tensors().len(), 2 + 12 * 2 + 2);
        let mut end = 0;
        for tensor in layout.tensors() {
            assert_eq!(tensor.offset, end);
            end += tensor.len();
        }
        assert_eq!(end, layout.num_parameters());
        let flat: Vec<f32> = (0..end).map(|index| index as f32).collect();
        let views = model().views(&layout, &flat);
        let fc = layout.tensors().iter().find(|tensor| tensor.name == "transformer.h.1.mlp.c_fc.weight");
        assert_eq!(views.layers[1].mlp_c_fc.weight[0], fc.expect("it is there").offset as f32);
        assert_eq!(views.ln_f.bias[31], (end - 1) as f32);
    }

    #[test]
    fn initial_values_have_their_distribution() {
        let layout = model().layout();
        let values = initial_parameters(&model(), 1);
        let views = model().views(&layout, &values);
        let std = |values: &[f32]| {
            (values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
        };
        assert!((std(views.wte) / 0.02 - 1.0).abs() < 0.03, "{}", std(views.wte));
        assert!((std(views.layers[0].mlp_c_proj.weight) / 0.01 - 1.0).abs() < 0.03);
        let within =
            views.wte.iter().filter(|value| value.abs() < 0.02).count() as f64 / views.wte.len() as f64;
        assert!((within - 0.6827).abs() < 0.02, "{within}");
        assert!(views.ln_f.weight.iter().all(|&value| value == 1.0));
        assert!(views.ln_f.bias.iter().chain(views.layers[0].mlp_c_fc.bias).all(|&value| value == 0.0));
        assert_ne!(values, initial_parameters(&model(), 2));
    }
}
