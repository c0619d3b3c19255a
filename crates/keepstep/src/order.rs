//! The order of an epoch's samples: a keyed permutation that is computed per index.
//!
//! A balanced Feistel network permutes the smallest even-width binary domain that holds `0..num_samples`, and cycle
//! walking (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002) restricts it to that range. The
//! round keys are SHA-256 of the seed *and* the epoch. Seeking costs the same for every index, and nothing is stored.

use sha2::{Digest, Sha256};

const ROUNDS: usize = 10;

/// The order in which one epoch visits its samples.
///
/// ```
/// use keepstep::order::Order;
/// let order = Order::new(1337, 1, 1_000_000_000_000);
/// let sample = order.sample(999_999_999_999);
/// assert!(sample < 1_000_000_000_000);
/// assert_eq!(order.place(sample), 999_999_999_999);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    num_samples: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Order {
    /// Makes the order of epoch `epoch` (1-based) over `num_samples` samples, at most 2^62, in a run with this seed.
    ///
    /// # Panics
    /// If `num_samples` is above 2^62.
    pub fn new(seed: u64, epoch: u64, num_samples: u64) -> Order {
        assert!(num_samples <= 1 << 62, "an epoch of more than 2^62 samples");
        let bits = u64::BITS - num_samples.saturating_sub(1).leading_zeros();
        let mut keys = [0; ROUNDS];
        for (index, key) in keys.iter_mut().enumerate() {
            let mut hash = Sha256::new();
            hash.update(b"keepstep order 1");
            for number in [seed, epoch, index as u64] {
                hash.update(number.to_le_bytes());
            }
            let digest = hash.finalize();
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&digest[..8]);
            *key = u64::from_le_bytes(bytes);
        }
        Order { num_samples, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Returns the number of samples in the epoch.
    pub fn num_samples(&self) -> u64 {
        self.num_samples
    }

    /// Returns the sample that is visited at place `index`.
    ///
    /// # Panics
    /// If `index` is not below the number of samples.
    pub fn sample(&self, index: u64) -> u64 {
        self.walk(index, |value| self.forward(value))
    }

    /// Returns the place at which `sample` is visited: the inverse of [`Order::sample`].
    ///
    /// # Panics
    /// If `sample` is not below the number of samples.
    pub fn place(&self, sample: u64) -> u64 {
        self.walk(sample, |value| self.backward(value))
    }

    fn walk(&self, start: u64, permute: impl Fn(u64) -> u64) -> u64 {
        assert!(start < self.num_samples, "{start} is not below {}", self.num_samples);
        // The cycle of the permutation through `start` returns to the range, at the latest when it reaches `start`.
        let mut value = permute(start);
        while value >= self.num_samples {
            value = permute(value);
        }
        value
    }

    fn forward(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for &key in &self.keys {
            (left, right) = (right, left ^ (mix(right, key) & mask));
        }
        left << self.half_bits | right
    }

    fn backward(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for &key in self.keys.iter().rev() {
            (left, right) = (right ^ (mix(left, key) & mask), left);
        }
        left << self.half_bits | right
    }
}

/// Computes the round function: two rounds of the finalizer of MurmurHash3 (with Stafford's constants, "Better bit
/// mixing", variant 13) over the half and the round key.
fn mix(half: u64, key: u64) -> u64 {
    let mut value = half.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ key;
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every N up to 65,536, every place. The network depends on N through its width alone, so it is tabulated once
    /// per width, and the same walk that the product uses runs over the table.
    #[test]
    fn a_bijection_for_every_size_up_to_65536() {
        let mut met = vec![0_u32; 65_536];
        let mut table = Vec::new();
        let mut width = 0;
        for size in 1_u32..=65_536 {
            let order = Order::new(1337, 2, u64::from(size));
            if order.half_bits != width {
                width = order.half_bits;
                table = (0..1 << (2 * width)).map(|value| order.forward(value) as u32).collect::<Vec<_>>();
            }
            for place in 0..size {
                let sample = order.walk(u64::from(place), |value| u64::from(table[value as usize])) as usize;
                assert!(sample < size as usize && met[sample] != size, "{size}: sample {sample} twice");
                met[sample] = size;
            }
            let place = u64::from(size / 3);
            let tabulated = order.walk(place, |value| u64::from(table[value as usize]));
            assert_eq!(order.sample(place), tabulated);
        }
    }

    proptest! {
        #[test]
        fn a_bijection_beyond(seed: u64, epoch: u64, size in 1_u64..=1 << 62, place: u64) {
            let order = Order::new(seed, epoch, size);
            let place = place % size;
            let sample = order.sample(place);
            prop_assert!(sample < size);
            prop_assert_eq!(order.place(sample), place);
        }
    }

    #[test]
    fn every_input_bit_flips_every_output_bit_half_of_the_time() {
        for bits in [16_u32, 20, 32, 40] {
            let order = Order::new(42, 3, 1 << bits);
            let trials = 6_000_u64;
            for input in 0..bits {
                let mut flips = vec![0_u32; bits as usize];
                for trial in 0..trials {
                    let value = mix(trial, 7 + u64::from(input)) & ((1 << bits) - 1);
                    let difference = order.sample(value) ^ order.sample(value ^ 1 << input);
                    for (output, count) in flips.iter_mut().enumerate() {
                        *count += (difference >> output & 1) as u32;
                    }
                }
                for (output, &count) in flips.iter().enumerate() {
                    let share = f64::from(count) / trials as f64;
                    assert!((share - 0.5).abs() < 0.03, "{bits} bits, {input} -> {output}: {share}");
                }
            }
        }
    }

    /// `seed + epoch` as the key would make these two the same order.
    #[test]
    fn epoch_and_seed_are_not_added() {
        for (seed, epoch) in [(0, 2), (1337, 2), (7, 9), (u64::MAX - 1, 5)] {
            let one = Order::new(seed, epoch, 1_000);
            let other = Order::new(seed + 1, epoch - 1, 1_000);
            let same = (0..1_000).filter(|&index| one.sample(index) == other.sample(index)).count();
            assert!(same < 20, "{same} of 1000 places agree");
        }
    }

    #[test]
    fn golden_order() {
        let order = Order::new(1337, 2, 10);
        let samples: Vec<u64> = (0..10).map(|index| order.sample(index)).collect();
        assert_eq!(samples, GOLDEN);
    }
    const GOLDEN: [u64; 10] = [2, 5, 1, 4, 9, 0, 3, 8, 6, 7];
}
