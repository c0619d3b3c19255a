//! The model again, slow and obvious, in float64 and one scalar at a time; gradients by a tape of partial derivatives.

use crate::engine::DropoutKey;
use crate::engine::Engine;
use crate::gpt2::CpuEngine;
use crate::gpt2::dropout_site::Site;
use crate::gpt2::layout::initial_parameters;
use crate::gpt2::settings::Gpt2Config;
use crate::layout::Layout;
use keepstep::rng::{Purpose, Stream};
use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Sub};

/// Every scalar that was computed: its parents with the partial derivatives.
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

    /// The derivatives of `of` by every scalar.
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

/// One micro-batch through the model.
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

    /// The mean loss.
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

fn model(dropout: f64) -> Gpt2Config {
    Gpt2Config {
        vocab_size: 11,
        block_size: 5,
        n_layer: 2,
        n_head: 2,
        n_embd: 6,
        dropout,
        layer_norm_epsilon: 1e-5,
    }
}

/// Values that are not those of the start: every bias and every weight matters.
fn parameters(model: &Gpt2Config) -> Vec<f32> {
    // Wide models saturate unless their weights are small.
    let scale = (8.0 / model.n_embd as f32).sqrt().min(1.0);
    let stream = Stream::new(9, Purpose::Custom, &[]);
    let mut values = initial_parameters(model, 3);
    for (index, value) in values.iter_mut().enumerate() {
        *value = (*value * 5.0 + (stream.uniform(index as u64) - 0.5) as f32 * 0.4) * scale;
    }
    values
}

fn tokens(model: &Gpt2Config, batch_size: usize) -> Vec<u32> {
    let stream = Stream::new(4, Purpose::Custom, &[1]);
    let token = |index: usize| (stream.uniform(index as u64) * model.vocab_size as f64) as u32;
    (0..batch_size * (model.block_size + 1)).map(token).collect()
}

const KEY: DropoutKey = DropoutKey { seed: 5, global_step: 17, micro_batch: 2 };

fn reference(model: &Gpt2Config, values: &[f64], tokens: &[u32]) -> (f64, Vec<f64>) {
    let tape = Tape::default();
    let variables: Vec<_> = values.iter().map(|&value| tape.constant(value)).collect();
    let layout = model.layout();
    let key = (model.dropout > 0.0).then_some(KEY);
    let reference = Reference { tape: &tape, model, parameters: &variables, layout: &layout, key };
    let loss = reference.loss(tokens);
    let grads = tape.derivatives(loss);
    // Parents of leaves are given as scalar 0 with derivative 0, so that leaves come first and alone.
    (loss.value, grads[..values.len()].to_vec())
}

#[test]
fn gradients_are_those_of_the_reference() {
    let small = |dropout: f64, batch_size: usize, recompute: bool| (model(dropout), batch_size, recompute);
    let shapes = [
        small(0.0, 1, false),
        small(0.0, 3, false),
        small(0.3, 3, false),
        small(0.3, 2, true),
        // More than one block of queries and keys, and of rows, each with a ragged end.
        (Gpt2Config { block_size: 70, ..model(0.3) }, 2, false),
        (Gpt2Config { block_size: 131, n_head: 1, n_embd: 8, ..model(0.2) }, 1, true),
        (Gpt2Config { block_size: 66, n_head: 6, n_embd: 6, ..model(0.0) }, 1, false),
        // A head as wide as they come.
        (Gpt2Config { vocab_size: 7, n_head: 1, n_embd: 128, n_layer: 1, ..model(0.1) }, 1, false),
        // More than one block of rows, and of the vocabulary, at the head.
        small(0.1, 110, false),
        (Gpt2Config { vocab_size: 4099, n_layer: 1, ..model(0.0) }, 1, false),
    ];
    for (model, batch_size, recompute) in shapes {
        let dropout = model.dropout;
        // Rounding adds up over rows; a term that is missing or doubled is seen at either bound.
        let bound = if batch_size * model.block_size > 20 { 5e-5 } else { 1e-5 };
        let layout = model.layout();
        let values = parameters(&model);
        let tokens = tokens(&model, batch_size);
        let exact: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        let (loss, expected) = reference(&model, &exact, &tokens);

        let mut engine = CpuEngine::new(&model, batch_size, recompute);
        let mut found = vec![f32::NAN; layout.num_parameters()];
        let sum = engine.loss_and_gradient(&values, &tokens, KEY, &mut found);

        assert_eq!(sum.num_tokens, (batch_size * model.block_size) as u64);
        assert!((sum.mean() - loss).abs() < 2e-6, "{} and {loss}", sum.mean());
        for tensor in layout.tensors() {
            let range = tensor.offset..tensor.offset + tensor.len();
            let (found, expected) = (&found[range.clone()], &expected[range]);
            let largest = expected.iter().fold(1e-3_f64, |largest, value| largest.max(value.abs()));
            for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
                let error = (f64::from(found) - expected).abs();
                let name = &tensor.name;
                assert!(
                    error < bound * largest.max(0.1),
                    "{name}[{index}]: {found} and {expected}, {model:?}"
                );
            }
        }
        if dropout == 0.0 {
            assert!((engine.loss(&values, &tokens).mean() - loss).abs() < 2e-6);
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    let model = model(0.3);
    let layout = model.layout();
    let values = parameters(&model);
    let tokens = tokens(&model, 2);
    let exact: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
    let mut found = vec![0.0; layout.num_parameters()];
    CpuEngine::new(&model, 2, false).loss_and_gradient(&values, &tokens, KEY, &mut found);
    for tensor in layout.tensors() {
        for index in [tensor.offset, tensor.offset + tensor.len() / 2, tensor.offset + tensor.len() - 1] {
            let at = |step: f64| {
                let mut moved = exact.clone();
                moved[index] += step;
                reference(&model, &moved, &tokens).0
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            let error = (f64::from(found[index]) - difference).abs();
            assert!(
                error < 1e-5 * difference.abs().max(1.0),
                "{}[{}]: {} and {difference}",
                tensor.name,
                index - tensor.offset,
                found[index]
            );
        }
    }
}

/// The bits of a whole micro-batch, of a size that needs several blocks of rows and no multiple of a vector. A change
/// here is a change of numerics: raise the version and say so in the changelog.
#[test]
fn bits_are_golden_on_any_number_of_threads() {
    let model =
        Gpt2Config { vocab_size: 301, block_size: 77, n_layer: 2, n_head: 3, n_embd: 51, ..model(0.1) };
    let layout = model.layout();
    let values = initial_parameters(&model, 3);
    let stream = Stream::new(4, Purpose::Custom, &[1]);
    let tokens: Vec<u32> = (0..5 * 78).map(|index| (stream.uniform(index) * 301.0) as u32).collect();
    let all = [(2, false), (1, false), (3, true), (4, false)];
    for &(threads, recompute) in if keepstep_numerics::testing::is_emulated() { &all[..1] } else { &all } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let mut gradient = vec![0.0; layout.num_parameters()];
        let sum = pool.install(|| {
            CpuEngine::new(&model, 5, recompute).loss_and_gradient(&values, &tokens, KEY, &mut gradient)
        });
        let hash = keepstep_numerics::testing::fingerprint(&gradient);
        assert_eq!((sum.sum.to_bits(), hash.as_str()), (GOLDEN.0, GOLDEN.1), "{threads} threads");
    }
}

const GOLDEN: (u64, &str) = (4_657_063_423_572_974_642, "be5bed2cd1cd6784");
