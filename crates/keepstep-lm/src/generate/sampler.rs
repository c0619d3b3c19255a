//! Chooses the next token.

use super::GenerateOptions;
use keepstep::rng::{Purpose, Stream};
use keepstep_numerics::math::exp;
use keepstep_numerics::vectorized;

/// Chooses tokens. Among equally likely ones the smallest id comes first.
pub(super) struct Sampler<'a> {
    options: &'a GenerateOptions,
    /// Tokens from the likeliest to the least likely: see [`key`].
    keys: Vec<u64>,
    weights: Vec<f64>,
}

/// A sort key: smaller for likelier tokens, then for smaller ids. NaN is the least likely.
#[inline(always)]
fn key(logit: f32, token: u32) -> u64 {
    // -0 counts as 0.
    let logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit + 0.0 };
    let bits = logit.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!ascending) << 32 | u64::from(token)
}

impl<'a> Sampler<'a> {
    pub(super) fn new(options: &'a GenerateOptions) -> Sampler<'a> {
        Sampler { options, keys: Vec::new(), weights: Vec::new() }
    }

    /// Chooses the `index`-th new token.
    pub(super) fn choose(&mut self, logits: &[f32], index: u64) -> u32 {
        let Sampler { options, keys, weights } = self;
        let all = logits.iter().zip(0_u32..).map(|(&logit, token)| key(logit, token));
        if options.temperature <= 0.0 {
            return all.min().map_or(0, |key| key as u32);
        }
        keys.clear();
        keys.extend(all);
        if options.top_k > 0 && options.top_k < keys.len() {
            keys.select_nth_unstable(options.top_k - 1);
            keys.truncate(options.top_k);
        }
        keys.sort_unstable();
        weights.clear();
        weights.resize(keys.len(), 0.0);
        weigh(weights, keys, logits, options.temperature);
        let stream = Stream::new(options.seed, Purpose::Sampling, &[index]);
        let mut left = stream.uniform(0) * weights.iter().sum::<f64>();
        for (&key, weight) in keys.iter().zip(weights.iter()) {
            left -= weight;
            if left < 0.0 {
                return key as u32;
            }
        }
        keys.first().map_or(0, |&key| key as u32)
    }
}

vectorized! {
    /// exp((logit - largest) / temperature) of each token, the likeliest first.
    fn weigh(weights: &mut [f64], keys: &[u64], logits: &[f32], temperature: f64) {
        let largest = keys.first().map_or(0.0, |&key| f64::from(logits[key as u32 as usize]));
        for (weight, &key) in weights.iter_mut().zip(keys) {
            let score = (f64::from(logits[key as u32 as usize]) - largest) / temperature;
            *weight = f64::from(exp(score as f32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(temperature: f64, top_k: usize) -> GenerateOptions {
        GenerateOptions { max_new_tokens: 0, temperature, top_k, seed: 3 }
    }

    #[test]
    fn likelihoods_decide() {
        let options = options(1.0, 2);
        let mut sampler = Sampler::new(&options);
        let logits = [0.0, 3.0_f32.ln(), -5.0, -5.0];
        let ones = (0..4000).filter(|&index| sampler.choose(&logits, index) == 1).count();
        assert!((ones as f64 / 4000.0 - 0.75).abs() < 0.03, "{ones}");
        assert!((0..500).all(|index| sampler.choose(&logits, index) < 2));
        let greedy = super::tests::options(0.0, 0);
        assert_eq!(Sampler::new(&greedy).choose(&[1.0, 1.0], 0), 0);
        assert_eq!(Sampler::new(&greedy).choose(&[f32::NAN, -1.0, f32::NEG_INFINITY], 0), 1);
        assert_eq!(Sampler::new(&greedy).choose(&[-1.0, -0.0, 0.0], 0), 1);
    }

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_likelihood(logits in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 1..50)) {
            let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
            tokens.sort_by(|&one, &other| {
                logits[other as usize].partial_cmp(&logits[one as usize]).expect("numbers").then(one.cmp(&other))
            });
            let mut keys: Vec<u64> = logits.iter().zip(0..).map(|(&logit, token)| key(logit, token)).collect();
            keys.sort_unstable();
            prop_assert_eq!(keys.iter().map(|&key| key as u32).collect::<Vec<_>>(), tokens);
        }
    }
}
