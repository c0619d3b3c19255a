//! AdamW (Loshchilov and Hutter, 2019), with the operations of `torch.optim.AdamW` in the same order.

use crate::layout::Layout;
use keepstep::settings;
use keepstep_numerics::math::powi;
use keepstep_numerics::vectorized;
use rayon::prelude::*;
use std::ops::Range;

settings! {
    /// The AdamW optimizer.
    pub struct OptimizerConfig {
        /// The highest learning rate.
        result learning_rate: f64 = 5e-4,
        /// Decoupled weight decay, for tensors of two or more dimensions.
        result weight_decay: f64 = 0.1,
        /// Decay rates of the two moments.
        result betas: [f64; 2] = [0.9, 0.95],
        /// Added to the denominator.
        result eps: f64 = 1e-8,
        /// The largest global norm of the gradient; larger gradients are clipped to it. 0 turns clipping off.
        result max_grad_norm: f64 = 1.0,
    }
}

/// One of the optimizer's parameter groups. Fields correspond to PyTorch's.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamGroup {
    /// The base learning rate (`initial_lr`), which the schedule's factor multiplies.
    pub learning_rate: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The group's tensors, as indices in the layout.
    pub tensors: Vec<usize>,
}

impl ParamGroup {
    /// Creates the two groups of a config: tensors of two or more dimensions with weight decay, the others without.
    pub fn from_config(config: &OptimizerConfig, layout: &Layout) -> Vec<ParamGroup> {
        let group = |decay: bool| ParamGroup {
            learning_rate: config.learning_rate,
            betas: config.betas,
            eps: config.eps,
            weight_decay: if decay { config.weight_decay } else { 0.0 },
            tensors: (0..layout.tensors().len())
                .filter(|&index| layout.tensors()[index].decay == decay)
                .collect(),
        };
        vec![group(true), group(false)]
    }
}

/// AdamW over all tensors of a layout.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    groups: Vec<ParamGroup>,
}

/// The flat buffers that an update writes.
#[derive(Debug)]
pub struct Buffers<'a> {
    /// The parameters.
    pub parameters: &'a mut [f32],
    /// The first moment.
    pub exp_avg: &'a mut [f32],
    /// The second moment.
    pub exp_avg_sq: &'a mut [f32],
}

/// The flat buffers that an update reads, if it does not work in place.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The parameters.
    pub parameters: &'a [f32],
    /// The first moment.
    pub exp_avg: &'a [f32],
    /// The second moment.
    pub exp_avg_sq: &'a [f32],
}

/// The constants of one update, each rounded once.
#[derive(Debug, Clone, Copy)]
struct Factors {
    /// The factor of the gradients, from clipping.
    clip: f32,
    /// 1 - lr * weight_decay
    decay: f32,
    lerp: f32,
    beta2: f32,
    one_minus_beta2: f32,
    /// lr / (1 - beta1^t)
    step_size: f32,
    /// sqrt(1 - beta2^t)
    bias_correction2_sqrt: f32,
    eps: f32,
}

/// The number of elements that one task updates.
const CHUNK: usize = 1 << 14;

impl AdamW {
    /// Creates an optimizer with these groups. Together they must contain each tensor once.
    pub fn new(groups: Vec<ParamGroup>) -> AdamW {
        AdamW { groups }
    }

    /// Returns the parameter groups.
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// Makes update number `count`, from 1. The gradient is multiplied by `clip`, and each group's rate by `factor`.
    pub fn step(
        &self,
        layout: &Layout,
        buffers: Buffers<'_>,
        gradient: &[f32],
        clip: f64,
        factor: f64,
        count: u64,
    ) {
        for (range, factors) in self.tensors(layout, clip, factor, count) {
            buffers.parameters[range.clone()]
                .par_chunks_mut(CHUNK)
                .zip(buffers.exp_avg[range.clone()].par_chunks_mut(CHUNK))
                .zip(buffers.exp_avg_sq[range.clone()].par_chunks_mut(CHUNK))
                .zip(gradient[range].par_chunks(CHUNK))
                .for_each(|(((parameters, exp_avg), exp_avg_sq), gradient)| {
                    update(parameters, exp_avg, exp_avg_sq, gradient, factors);
                });
        }
    }

    /// Makes the same update as [`AdamW::step`], with the same bits, but reads the old values from `from` and writes
    /// the new ones to `into`.
    #[expect(clippy::too_many_arguments, reason = "the arguments of `step`, and the old values")]
    pub fn step_from(
        &self,
        layout: &Layout,
        from: Values<'_>,
        into: Buffers<'_>,
        gradient: &[f32],
        clip: f64,
        factor: f64,
        count: u64,
    ) {
        for (range, factors) in self.tensors(layout, clip, factor, count) {
            into.parameters[range.clone()]
                .par_chunks_mut(CHUNK)
                .zip(into.exp_avg[range.clone()].par_chunks_mut(CHUNK))
                .zip(into.exp_avg_sq[range.clone()].par_chunks_mut(CHUNK))
                .zip(from.parameters[range.clone()].par_chunks(CHUNK))
                .zip(from.exp_avg[range.clone()].par_chunks(CHUNK))
                .zip(from.exp_avg_sq[range.clone()].par_chunks(CHUNK))
                .zip(gradient[range].par_chunks(CHUNK))
                .for_each(|((((((p_out, m_out), v_out), p), m), v), gradient)| {
                    update_from(p, m, v, p_out, m_out, v_out, gradient, factors);
                });
        }
    }

    /// Returns each tensor's range in the buffer, with the constants of its group.
    fn tensors(
        &self,
        layout: &Layout,
        clip: f64,
        factor: f64,
        count: u64,
    ) -> impl Iterator<Item = (Range<usize>, Factors)> {
        self.groups.iter().flat_map(move |group| {
            let [beta1, beta2] = group.betas;
            let learning_rate = group.learning_rate * factor;
            let factors = Factors {
                clip: clip as f32,
                decay: (1.0 - learning_rate * group.weight_decay) as f32,
                lerp: (1.0 - beta1) as f32,
                beta2: beta2 as f32,
                one_minus_beta2: (1.0 - beta2) as f32,
                step_size: (learning_rate / (1.0 - powi(beta1, count))) as f32,
                bias_correction2_sqrt: (1.0 - powi(beta2, count)).sqrt() as f32,
                eps: group.eps as f32,
            };
            group.tensors.iter().map(move |&index| {
                let tensor = &layout.tensors()[index];
                (tensor.offset..tensor.offset + tensor.len(), factors)
            })
        })
    }
}

impl Factors {
    /// Returns parameter and moments of one element after the update.
    #[inline(always)]
    fn apply(&self, parameter: f32, exp_avg: f32, exp_avg_sq: f32, gradient: f32) -> (f32, f32, f32) {
        let g = gradient * self.clip;
        let m = f32::mul_add(self.lerp, g - exp_avg, exp_avg);
        let v = f32::mul_add(self.one_minus_beta2 * g, g, self.beta2 * exp_avg_sq);
        let denominator = v.sqrt() / self.bias_correction2_sqrt + self.eps;
        (parameter * self.decay - self.step_size * (m / denominator), m, v)
    }
}

vectorized! {
    fn update(parameters: &mut [f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32], gradient: &[f32], factors: Factors) {
        let len = parameters.len();
        let (exp_avg, exp_avg_sq, gradient) = (&mut exp_avg[..len], &mut exp_avg_sq[..len], &gradient[..len]);
        for index in 0..len {
            let (p, m, v) = factors.apply(parameters[index], exp_avg[index], exp_avg_sq[index], gradient[index]);
            (parameters[index], exp_avg[index], exp_avg_sq[index]) = (p, m, v);
        }
    }
}

vectorized! {
    fn update_from(
        parameters: &[f32],
        exp_avg: &[f32],
        exp_avg_sq: &[f32],
        parameters_out: &mut [f32],
        exp_avg_out: &mut [f32],
        exp_avg_sq_out: &mut [f32],
        gradient: &[f32],
        factors: Factors,
    ) {
        let len = parameters_out.len();
        let (parameters, exp_avg, exp_avg_sq) = (&parameters[..len], &exp_avg[..len], &exp_avg_sq[..len]);
        let (exp_avg_out, exp_avg_sq_out) = (&mut exp_avg_out[..len], &mut exp_avg_sq_out[..len]);
        let gradient = &gradient[..len];
        for index in 0..len {
            let (p, m, v) = factors.apply(parameters[index], exp_avg[index], exp_avg_sq[index], gradient[index]);
            (parameters_out[index], exp_avg_out[index], exp_avg_sq_out[index]) = (p, m, v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cases::tiny;

    /// Results match Kingma and Ba's algorithm with decoupled decay, in float64.
    #[test]
    fn it_is_the_published_algorithm() {
        let model = tiny();
        let layout = model.layout();
        let len = layout.num_parameters();
        let config = OptimizerConfig { learning_rate: 1e-2, weight_decay: 0.1, ..OptimizerConfig::default() };
        let optimizer = AdamW::new(ParamGroup::from_config(&config, &layout));
        let start: Vec<f32> = (0..len).map(|index| (index as f32 * 0.37).fract() - 0.5).collect();
        let (mut parameters, mut m, mut v) = (start.clone(), vec![0.0; len], vec![0.0; len]);
        let mut exact: Vec<[f64; 3]> = start.iter().map(|&value| [f64::from(value), 0.0, 0.0]).collect();
        let mut elsewhere = [vec![f32::NAN; len], vec![f32::NAN; len], vec![f32::NAN; len]];
        for count in 1..=20_u64 {
            let gradient: Vec<f32> =
                (0..len).map(|index| ((index as f32 + 1.0) * count as f32 * 0.61).fract() - 0.4).collect();
            // The same update into other buffers must leave these unchanged.
            let before = [parameters.clone(), m.clone(), v.clone()];
            let [p_out, m_out, v_out] = &mut elsewhere;
            let into = Buffers { parameters: p_out, exp_avg: m_out, exp_avg_sq: v_out };
            let from = Values { parameters: &parameters, exp_avg: &m, exp_avg_sq: &v };
            optimizer.step_from(&layout, from, into, &gradient, 0.5, 1.0, count);
            assert_eq!(before, [parameters.clone(), m.clone(), v.clone()]);
            let buffers = Buffers { parameters: &mut parameters, exp_avg: &mut m, exp_avg_sq: &mut v };
            optimizer.step(&layout, buffers, &gradient, 0.5, 1.0, count);
            assert_eq!(elsewhere, [parameters.clone(), m.clone(), v.clone()], "{count}");
            for tensor in layout.tensors() {
                let decay = if tensor.decay { 0.1 } else { 0.0 };
                for index in tensor.offset..tensor.offset + tensor.len() {
                    let [p, m, v] = &mut exact[index];
                    let g = f64::from(gradient[index]) * 0.5;
                    *m = 0.9 * *m + 0.1 * g;
                    *v = 0.95 * *v + 0.05 * g * g;
                    let m = *m / (1.0 - 0.9_f64.powi(count as i32));
                    let v = *v / (1.0 - 0.95_f64.powi(count as i32));
                    *p = *p * (1.0 - 1e-2 * decay) - 1e-2 * m / (v.sqrt() + 1e-8);
                }
            }
        }
        for (index, [p, ..]) in exact.iter().enumerate() {
            assert!(
                (f64::from(parameters[index]) - p).abs() < 2e-6,
                "{index}: {} and {p}",
                parameters[index]
            );
        }
    }
}
