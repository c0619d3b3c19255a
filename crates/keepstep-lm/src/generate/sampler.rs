//! Chooses the next token.

use super::GenerateOptions;
use keepstep::rng::{Purpose, Stream};
use keepstep_numerics::math::exp;
use keepstep_numerics::reduce::max;
use keepstep_numerics::vectorized;

/// Chooses tokens. Among equally likely ones the smallest id comes first.
pub(super) struct Sampler<'a> {
    options: &'a GenerateOptions,
    /// The index of the text among several from the same prompt.
    sample: u64,
    /// Tokens from the likeliest to the least likely: see [`key`].
    keys: Vec<u64>,
    spare: Vec<u64>,
    maxima: Vec<f32>,
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

/// Logits in a block whose largest one is compared first.
const BLOCK: usize = 32;

impl<'a> Sampler<'a> {
    /// Creates the sampler for the text with the index `sample`. Its random numbers differ from those of other texts.
    pub(super) fn new(options: &'a GenerateOptions, sample: u64) -> Sampler<'a> {
        let (keys, spare, maxima, weights) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Sampler { options, sample, keys, spare, maxima, weights }
    }

    /// Chooses the `index`-th new token.
    pub(super) fn choose(&mut self, logits: &[f32], index: u64) -> u32 {
        let count = match self.options {
            options if options.temperature <= 0.0 => 1,
            options if options.top_k == 0 => logits.len(),
            options => options.top_k.min(logits.len()),
        };
        self.likeliest(logits, count);
        let Sampler { options, sample, keys, weights, .. } = self;
        if count > 1 {
            weights.clear();
            weights.resize(keys.len(), 0.0);
            weigh(weights, keys, logits, options.temperature);
            // The first text has the random numbers of a single one.
            let coordinates = [index, *sample];
            let coordinates = if *sample == 0 { &coordinates[..1] } else { &coordinates[..] };
            let stream = Stream::new(options.seed, Purpose::Sampling, coordinates);
            let mut left = stream.uniform(0) * weights.iter().sum::<f64>();
            for (&key, weight) in keys.iter().zip(weights.iter()) {
                left -= weight;
                if left < 0.0 {
                    return key as u32;
                }
            }
        }
        keys.first().map_or(0, |&key| key as u32)
    }

    /// Sets the keys to those of the `count` likeliest tokens, in order.
    fn likeliest(&mut self, logits: &[f32], count: usize) {
        let Sampler { keys, spare, maxima, .. } = self;
        keys.clear();
        // The `count` largest blocks have as many logits of at least the smallest of their largest logits.
        let blocks = logits.len().div_ceil(BLOCK);
        let mut least = f32::NEG_INFINITY;
        if count > 0 && count < blocks {
            maxima.resize(blocks, 0.0);
            block_maxima(maxima, logits);
            spare.clear();
            spare.extend(maxima.iter().map(|&largest| key(largest, 0)));
            let place = *spare.select_nth_unstable(count - 1).1;
            let is_least = |largest: &&f32| key(**largest, 0) == place;
            least = maxima.iter().find(is_least).copied().unwrap_or(least);
        }
        if least == f32::NEG_INFINITY {
            keys.extend(logits.iter().zip(0_u32..).map(|(&logit, token)| key(logit, token)));
        } else {
            for (index, _) in maxima.iter().enumerate().filter(|(_, largest)| **largest >= least) {
                let first = index * BLOCK;
                let block = &logits[first..logits.len().min(first + BLOCK)];
                let large = block.iter().zip(first as u32..).filter(|(logit, _)| **logit >= least);
                keys.extend(large.map(|(&logit, token)| key(logit, token)));
            }
        }
        if count < keys.len() {
            if count > 0 {
                keys.select_nth_unstable(count - 1);
            }
            keys.truncate(count);
            // They are not in the order of their tokens any more.
            keys.sort_unstable();
        } else {
            sort(keys, spare);
        }
    }
}

vectorized! {
    /// The largest number of each block. NaNs are ignored.
    fn block_maxima(maxima: &mut [f32], logits: &[f32]) {
        for (largest, block) in maxima.iter_mut().zip(logits.chunks(BLOCK)) {
            *largest = max(block);
        }
    }
}

/// Sorts keys that are in the order of their tokens.
fn sort(keys: &mut Vec<u64>, spare: &mut Vec<u64>) {
    /// Bits of a digit. Three digits are the upper half of a key.
    const BITS: u32 = 11;
    const MANY: usize = 2048;
    if keys.len() < MANY {
        return keys.sort_unstable();
    }
    let digit = |key: u64, place: usize| (key >> (32 + place as u32 * BITS)) as usize % (1 << BITS);
    let mut starts = [[0_usize; 1 << BITS]; 3];
    for &key in keys.iter() {
        for (place, counts) in starts.iter_mut().enumerate() {
            counts[digit(key, place)] += 1;
        }
    }
    spare.clear();
    spare.resize(keys.len(), 0);
    for (place, starts) in starts.iter_mut().enumerate() {
        let mut start = 0;
        for count in starts.iter_mut() {
            (*count, start) = (start, start + *count);
        }
        for &key in keys.iter() {
            let start = &mut starts[digit(key, place)];
            spare[*start] = key;
            *start += 1;
        }
        std::mem::swap(keys, spare);
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
        let mut sampler = Sampler::new(&options, 0);
        let logits = [0.0, 3.0_f32.ln(), -5.0, -5.0];
        let ones = (0..4000).filter(|&index| sampler.choose(&logits, index) == 1).count();
        assert!((ones as f64 / 4000.0 - 0.75).abs() < 0.03, "{ones}");
        assert!((0..500).all(|index| sampler.choose(&logits, index) < 2));
        let greedy = super::tests::options(0.0, 0);
        assert_eq!(Sampler::new(&greedy, 0).choose(&[1.0, 1.0], 0), 0);
        assert_eq!(Sampler::new(&greedy, 0).choose(&[f32::NAN, -1.0, f32::NEG_INFINITY], 0), 1);
        assert_eq!(Sampler::new(&greedy, 0).choose(&[-1.0, -0.0, 0.0], 0), 1);
    }

    #[test]
    fn each_text_has_its_own_random_numbers() {
        let options = options(1.0, 0);
        let choose = |sample| -> Vec<u32> {
            (0..50).map(|index| Sampler::new(&options, sample).choose(&[0.0; 100], index)).collect()
        };
        assert_eq!(choose(3), choose(3));
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            assert_ne!(choose(one), choose(other));
        }
    }

    proptest! {
        /// However many are asked for, with equal logits and with those that are no numbers.
        #[test]
        fn the_likeliest_are_the_first_of_all(
            logits in prop::collection::vec(
                prop_oneof![
                    4 => -9.0_f32..9.0,
                    1 => (-3_i8..3).prop_map(f32::from),
                    1 => prop::sample::select(vec![f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -0.0]),
                ],
                1..6000,
            ),
            count in prop_oneof![0_usize..300, 0_usize..6000],
        ) {
            let mut all: Vec<u64> = logits.iter().zip(0..).map(|(&logit, token)| key(logit, token)).collect();
            all.sort_unstable();
            let options = options(1.0, 0);
            let mut sampler = Sampler::new(&options, 0);
            for count in [count, 1, logits.len()] {
                sampler.likeliest(&logits, count);
                prop_assert_eq!(&sampler.keys, &all[..count.min(logits.len())]);
            }
        }

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
