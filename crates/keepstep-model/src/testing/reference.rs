//! A slow and simple reference for GPT-2 in float64, one scalar at a time. Gradients come from a tape of partial
//! derivatives.

use crate::engine::DropoutKey;
use crate::gpt2::dropout_site::Site;
use crate::gpt2::settings::Gpt2Config;
use crate::layout::Layout;
use keepstep::rng::{Purpose, Stream};
use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Sub};

/// A tape of all computed scalars. Each entry holds the scalar's parents and the partial derivatives.
#[derive(Default)]
struct Tape(RefCell<Vec<[(usize, f64); 2]>>);

#[derive(Clone, Copy)]
struct Var<'t> {
    tape: &'t Tape,
    index: usize,
    value: f64,
}

impl Tape {
    fn var(&self, value: f64, parents: [(usize, f64); 2]) -> Var<'_> {
        let mut nodes = self.0.borrow_mut();
        nodes.push(parents);
        Var { tape: self, index: nodes.len() - 1, value }
    }

    fn constant(&self, value: f64) -> Var<'_> {
        self.var(value, [(0, 0.0); 2])
    }

    /// Computes the derivatives of `of` with respect to every scalar.
    fn derivatives(&self, of: Var<'_>) -> Vec<f64> {
        let nodes = self.0.borrow();
        let mut grads = vec![0.0; nodes.len()];
        grads[of.index] = 1.0;
        for index in (0..=of.index).rev() {
            for (parent, partial) in nodes[index] {
                grads[parent] += partial * grads[index];
            }
        }
        grads
    }
}

impl<'t> Var<'t> {
    fn map(self, value: f64, derivative: f64) -> Var<'t> {
        self.tape.var(value, [(self.index, derivative), (0, 0.0)])
    }
    fn exp(self) -> Var<'t> {
        self.map(self.value.exp(), self.value.exp())
    }
    fn ln(self) -> Var<'t> {
        self.map(self.value.ln(), 1.0 / self.value)
    }
    fn sqrt(self) -> Var<'t> {
        self.map(self.value.sqrt(), 0.5 / self.value.sqrt())
    }
    fn tanh(self) -> Var<'t> {
        self.map(self.value.tanh(), 1.0 - self.value.tanh().powi(2))
    }
    fn times(self, factor: f64) -> Var<'t> {
        self.map(self.value * factor, factor)
    }
    fn plus(self, term: f64) -> Var<'t> {
        self.map(self.value + term, 1.0)
    }
}

macro_rules! operator {
    ($trait:ident, $name:ident, |$a:ident, $b:ident| $value:expr, $da:expr, $db:expr) => {
        impl<'t> $trait for Var<'t> {
            type Output = Var<'t>;
            fn $name(self, other: Var<'t>) -> Var<'t> {
                let ($a, $b) = (self.value, other.value);
                self.tape.var($value, [(self.index, $da), (other.index, $db)])
            }
        }
    };
}
operator!(Add, add, |a, b| a + b, 1.0, 1.0);
operator!(Sub, sub, |a, b| a - b, 1.0, -1.0);
operator!(Mul, mul, |a, b| a * b, b, a);
operator!(Div, div, |a, b| a / b, 1.0 / b, -a / (b * b));

fn total<'t>(tape: &'t Tape, terms: impl IntoIterator<Item = Var<'t>>) -> Var<'t> {
    terms.into_iter().fold(tape.constant(0.0), |sum, term| sum + term)
}

type Rows<'t> = Vec<Vec<Var<'t>>>;

/// One micro-batch in the model.
struct Reference<'t, 'a> {
    tape: &'t Tape,
    model: &'a Gpt2Config,
    parameters: &'a [Var<'t>],
    layout: &'a Layout,
    key: Option<DropoutKey>,
}

impl<'t> Reference<'t, '_> {
    fn tensor(&self, name: &str) -> Vec<Var<'t>> {
        let name = format!("transformer.{name}");
        let found = self.layout.tensors().iter().find(|tensor| tensor.name == name).expect("a tensor");
        self.parameters[found.offset..found.offset + found.len()].to_vec()
    }

    fn linear(&self, x: &Rows<'t>, name: &str) -> Rows<'t> {
        let (weight, bias) = (self.tensor(&format!("{name}.weight")), self.tensor(&format!("{name}.bias")));
        let outs = bias.len();
        x.iter()
            .map(|x| {
                (0..outs)
                    .map(|out| {
                        bias[out]
                            + total(self.tape, x.iter().enumerate().map(|(i, &x)| x * weight[i * outs + out]))
                    })
                    .collect()
            })
            .collect()
    }

    fn layer_norm(&self, x: &Rows<'t>, name: &str) -> Rows<'t> {
        let (weight, bias) = (self.tensor(&format!("{name}.weight")), self.tensor(&format!("{name}.bias")));
        x.iter()
            .map(|x| {
                let n = x.len() as f64;
                let mean = total(self.tape, x.iter().copied()).times(1.0 / n);
                let variance = total(self.tape, x.iter().map(|&x| (x - mean) * (x - mean))).times(1.0 / n);
                let std = variance.plus(self.model.layer_norm_epsilon).sqrt();
                x.iter()
                    .zip(weight.iter().zip(&bias))
                    .map(|(&x, (&w, &b))| (x - mean) / std * w + b)
                    .collect()
            })
            .collect()
    }

    fn drop(&self, x: Var<'t>, layer: usize, site: Site, row: usize, col: usize, cols: usize) -> Var<'t> {
        let Some(key) = self.key else { return x };
        let coordinates = [key.global_step, key.micro_batch, layer as u64, site as u64];
        let stream = Stream::new(key.seed, Purpose::Dropout, &coordinates);
        let word = stream.word((row * cols.next_multiple_of(4) + col) as u64);
        let p = self.model.dropout;
        x.times(if f64::from(word) >= (p * 4_294_967_296.0).floor() { 1.0 / (1.0 - p) } else { 0.0 })
    }

    fn drop_rows(&self, x: Rows<'t>, layer: usize, site: Site) -> Rows<'t> {
        x.iter()
            .enumerate()
            .map(|(row, x)| {
                x.iter().enumerate().map(|(col, &v)| self.drop(v, layer, site, row, col, x.len())).collect()
            })
            .collect()
    }

    fn attention(&self, qkv: &Rows<'t>, layer: usize) -> Rows<'t> {
        let Gpt2Config { block_size, n_head, n_embd, .. } = *self.model;
        let size = self.model.head_size();
        let mut out = vec![Vec::new(); qkv.len()];
        for (row, out) in out.iter_mut().enumerate() {
            let (batch, place) = (row / block_size, row % block_size);
            for head in 0..n_head {
                let dot = |key: usize| {
                    let at = |part: usize, index: usize| part * n_embd + head * size + index;
                    let terms =
                        (0..size).map(|i| qkv[row][at(0, i)] * qkv[batch * block_size + key][at(1, i)]);
                    total(self.tape, terms).times(1.0 / (size as f64).sqrt())
                };
                let scores: Vec<_> = (0..=place).map(|key| dot(key).exp()).collect();
                let sum = total(self.tape, scores.iter().copied());
                let weights: Vec<_> = scores
                    .iter()
                    .enumerate()
                    .map(|(key, &score)| {
                        let place = (batch * n_head + head) * block_size + place;
                        self.drop(score / sum, layer, Site::AttentionWeights, place, key, block_size)
                    })
                    .collect();
                for index in 0..size {
                    let value = |key: usize| qkv[batch * block_size + key][2 * n_embd + head * size + index];
                    out.push(total(self.tape, weights.iter().enumerate().map(|(key, &w)| w * value(key))));
                }
            }
        }
        out
    }

    /// Computes the mean loss.
    fn loss(&self, tokens: &[u32]) -> Var<'t> {
        let Gpt2Config { block_size, n_embd, vocab_size, .. } = *self.model;
        let (wte, wpe) = (self.tensor("wte.weight"), self.tensor("wpe.weight"));
        let rows = tokens.len() / (block_size + 1) * block_size;
        let token = |row: usize| tokens[row / block_size * (block_size + 1) + row % block_size] as usize;
        let target = |row: usize| tokens[row / block_size * (block_size + 1) + row % block_size + 1] as usize;
        let embedded = (0..rows)
            .map(|row| {
                (0..n_embd)
                    .map(|i| wte[token(row) * n_embd + i] + wpe[row % block_size * n_embd + i])
                    .collect()
            })
            .collect();
        let mut x = self.drop_rows(embedded, 0, Site::Embedding);
        let add = |x: &Rows<'t>, y: &Rows<'t>| -> Rows<'t> {
            x.iter().zip(y).map(|(x, y)| x.iter().zip(y).map(|(&x, &y)| x + y).collect()).collect()
        };
        for layer in 0..self.model.n_layer {
            let name = |name: &str| format!("h.{layer}.{name}");
            let qkv = self.linear(&self.layer_norm(&x, &name("ln_1")), &name("attn.c_attn"));
            let y = self.linear(&self.attention(&qkv, layer), &name("attn.c_proj"));
            x = add(&x, &self.drop_rows(y, layer, Site::AttentionOutput));
            let mut y = self.linear(&self.layer_norm(&x, &name("ln_2")), &name("mlp.c_fc"));
            for value in y.iter_mut().flatten() {
                let cube = (*value * *value * *value).times(0.044_715);
                let u = (*value + cube).times((2.0 / std::f64::consts::PI).sqrt());
                *value = value.times(0.5) * u.tanh().plus(1.0);
            }
            x = add(&x, &self.drop_rows(self.linear(&y, &name("mlp.c_proj")), layer, Site::MlpOutput));
        }
        let x = self.layer_norm(&x, "ln_f");
        let losses = x.iter().enumerate().map(|(row, x)| {
            let logit = |token: usize| total(self.tape, (0..n_embd).map(|i| x[i] * wte[token * n_embd + i]));
            let logits: Vec<_> = (0..vocab_size).map(logit).collect();
            total(self.tape, logits.iter().map(|logit| logit.exp())).ln() - logits[target(row)]
        });
        total(self.tape, losses).times(1.0 / rows as f64)
    }
}

/// Computes the mean loss of a micro-batch and its gradient. Without dropout in the model, `key` is unused.
pub(crate) fn reference(
    model: &Gpt2Config,
    key: DropoutKey,
    values: &[f64],
    tokens: &[u32],
) -> (f64, Vec<f64>) {
    let tape = Tape::default();
    let variables: Vec<_> = values.iter().map(|&value| tape.constant(value)).collect();
    let layout = model.layout();
    let key = (model.dropout > 0.0).then_some(key);
    let reference = Reference { tape: &tape, model, parameters: &variables, layout: &layout, key };
    let loss = reference.loss(tokens);
    let grads = tape.derivatives(loss);
    // Leaves have scalar 0 as both parents, with derivative 0, so the tape begins with the leaves alone.
    (loss.value, grads[..values.len()].to_vec())
}

/// The tape's derivatives match finite differences of the loss.
#[test]
fn derivatives_are_finite_differences() {
    use crate::testing::cases::{KEY, parameters, small, tokens};
    let model = small(0.3);
    let tokens = tokens(&model, 2);
    let exact: Vec<f64> = parameters(&model).iter().map(|&value| f64::from(value)).collect();
    let (_, found) = reference(&model, KEY, &exact, &tokens);
    for tensor in model.layout().tensors() {
        for index in [tensor.offset, tensor.offset + tensor.len() / 2, tensor.offset + tensor.len() - 1] {
            let at = |step: f64| {
                let mut moved = exact.clone();
                moved[index] += step;
                reference(&model, KEY, &moved, &tokens).0
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            let error = (found[index] - difference).abs();
            assert!(
                error < 1e-6 * difference.abs().max(1.0),
                "{}[{}]: {} and {difference}",
                tensor.name,
                index - tensor.offset,
                found[index]
            );
        }
    }
}
