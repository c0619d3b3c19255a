//! Random numbers that are a pure function of a key and a counter. There is no state to advance, so there is none to
//! restore.
//!
//! The generator is Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
//! (SC 2011). A [`Stream`] is keyed by SHA-256 of the seed, the [`Purpose`] and the coordinates of the place in the
//! computation that uses it. The counter is the element's index in that place.

use sha2::{Digest, Sha256};

/// The use of random numbers. Different purposes have different streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum Purpose {
    /// The initial values of parameters.
    Initialization = 1,
    /// Masks of dropout.
    Dropout = 2,
    /// Choosing the next token.
    Sampling = 3,
    /// Any other use in a training loop. Distinguish such uses by the first coordinate.
    Custom = 1 << 32,
}

/// The random numbers of one place in the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    /// The upper half of the counter.
    nonce: [u32; 2],
}

impl Stream {
    /// Makes the stream of the place with these coordinates, for instance `[global_step, micro_batch, layer, site]`.
    pub fn new(seed: u64, purpose: Purpose, coordinates: &[u64]) -> Stream {
        let mut hash = Sha256::new();
        hash.update(b"keepstep rng 1");
        for number in [seed, purpose as u64, coordinates.len() as u64].iter().chain(coordinates) {
            hash.update(number.to_le_bytes());
        }
        let digest = hash.finalize();
        let word = |index: usize| {
            let bytes = &digest[index * 4..index * 4 + 4];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        Stream { key: [word(0), word(1)], nonce: [word(2), word(3)] }
    }

    /// Returns the key and the upper half of the counter, for an implementation that computes many blocks at once.
    pub fn parts(&self) -> ([u32; 2], [u32; 2]) {
        (self.key, self.nonce)
    }

    /// Computes words `4 * index .. 4 * index + 4` of the stream.
    #[inline]
    pub fn block(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, self.nonce[0], self.nonce[1]], self.key)
    }

    /// Computes word `index` of the stream, uniform over all of `u32`.
    #[inline]
    pub fn word(&self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// Computes a float in `[0, 1)` with 53 random bits, from words `2 * index` and `2 * index + 1`.
    #[inline]
    pub fn uniform(&self, index: u64) -> f64 {
        let block = self.block(index / 2);
        let at = (index % 2) as usize * 2;
        let bits = u64::from(block[at]) << 32 | u64::from(block[at + 1]);
        (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

/// Applies ten rounds of Philox to a counter of 128 bits and a key of 64.
#[inline]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let low = u64::from(counter[0]) * 0xD251_1F53;
        let high = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (high >> 32) as u32 ^ counter[1] ^ key[0],
            high as u32,
            (low >> 32) as u32 ^ counter[3] ^ key[1],
            low as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn published_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = Stream::new(1, Purpose::Dropout, &[2, 3]);
        for other in [
            Stream::new(2, Purpose::Dropout, &[2, 3]),
            Stream::new(1, Purpose::Sampling, &[2, 3]),
            Stream::new(1, Purpose::Dropout, &[3, 2]),
            Stream::new(1, Purpose::Dropout, &[2, 3, 0]),
            Stream::new(1, Purpose::Dropout, &[2]),
        ] {
            assert_ne!(base.block(0), other.block(0));
        }
    }

    #[test]
    fn words_and_floats_are_read_from_the_blocks() {
        let stream = Stream::new(5, Purpose::Custom, &[]);
        let words: Vec<u32> = (0..8).map(|index| stream.word(index)).collect();
        assert_eq!(words, [stream.block(0), stream.block(1)].concat());
        let mean = (0..10_000).map(|index| stream.uniform(index)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((0..10_000).all(|index| (0.0..1.0).contains(&stream.uniform(index))));
    }
}
