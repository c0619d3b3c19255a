//! Dropout masks, computed where they are needed. Forward and backward ask for the same element and get the same value.

use keepstep::rng::{Purpose, Stream};
use keepstep_numerics::vectorized;

/// The key of one micro-batch's dropout masks. The masks are a pure function of it and of the element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// Updates completed before this one.
    pub global_step: u64,
    /// The micro-batch's index in the update.
    pub micro_batch: u64,
}

/// The dropout of one micro-batch, or `None` if nothing is dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropout(Option<(DropoutKey, f64)>);

impl Dropout {
    pub(crate) const OFF: Dropout = Dropout(None);

    pub(crate) fn new(key: DropoutKey, probability: f64) -> Dropout {
        Dropout((probability > 0.0).then_some((key, probability)))
    }

    /// Returns the mask at one site of one layer. The model numbers its sites.
    pub(crate) fn mask(&self, layer: usize, site: u64) -> Option<Mask> {
        let (key, probability) = self.0?;
        let coordinates = [key.global_step, key.micro_batch, layer as u64, site];
        Some(Mask {
            stream: Stream::new(key.seed, Purpose::Dropout, &coordinates),
            threshold: (probability * 4_294_967_296.0) as u32,
            scale: (1.0 / (1.0 - probability)) as f32,
        })
    }
}

/// The mask at one site. Element `e` is kept if word `e` of the stream is not below the threshold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mask {
    stream: Stream,
    threshold: u32,
    scale: f32,
}

/// The number of factors that are computed at a time.
const BATCH: usize = 64;

impl Mask {
    /// Multiplies row `row` of a matrix, or its first elements, by 1 / (1 - p) or 0.
    pub(crate) fn apply(&self, values: &mut [f32], row: usize, cols: usize) {
        multiply(values, self, first_element(row, cols));
    }

    /// Multiplies the elements of a row from column `col` on, a multiple of 4, by their factors.
    pub(crate) fn apply_from(&self, values: &mut [f32], row: usize, cols: usize, col: usize) {
        multiply(values, self, first_element(row, cols) + col as u64);
    }

    /// Computes `values = base + values * mask` for row `row` of a matrix.
    pub(crate) fn apply_and_add(&self, values: &mut [f32], base: &[f32], row: usize) {
        multiply_and_add(values, base, self, first_element(row, values.len()));
    }

    /// Returns the factors of the elements from `first` on, a multiple of 4.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "lanes run side by side through four arrays")]
    fn factors(&self, first: u64) -> [f32; BATCH] {
        const LANES: usize = BATCH / 4;
        let (key, nonce) = self.stream.parts();
        let mut words = [[0_u32; LANES]; 4];
        for lane in 0..LANES {
            let index = first / 4 + lane as u64;
            words[0][lane] = index as u32;
            words[1][lane] = (index >> 32) as u32;
            words[2][lane] = nonce[0];
            words[3][lane] = nonce[1];
        }
        let mut key = key;
        for round in 0..10 {
            if round > 0 {
                key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
            }
            for lane in 0..LANES {
                let low = u64::from(words[0][lane]) * 0xD251_1F53;
                let high = u64::from(words[2][lane]) * 0xCD9E_8D57;
                words[0][lane] = (high >> 32) as u32 ^ words[1][lane] ^ key[0];
                words[1][lane] = high as u32;
                words[2][lane] = (low >> 32) as u32 ^ words[3][lane] ^ key[1];
                words[3][lane] = low as u32;
            }
        }
        let mut factors = [0.0; BATCH];
        for lane in 0..LANES {
            for (word, words) in words.iter().enumerate() {
                factors[lane * 4 + word] = if words[lane] >= self.threshold { self.scale } else { 0.0 };
            }
        }
        factors
    }
}

/// The index of a row's first element. Each row begins at a multiple of 4, with a whole block of random words.
fn first_element(row: usize, cols: usize) -> u64 {
    row as u64 * cols.next_multiple_of(4) as u64
}

vectorized! {
    fn multiply(values: &mut [f32], mask: &Mask, first: u64) {
        for (batch, values) in values.chunks_mut(BATCH).enumerate() {
            let factors = mask.factors(first + (batch * BATCH) as u64);
            for (value, factor) in values.iter_mut().zip(&factors) {
                *value *= factor;
            }
        }
    }
}

vectorized! {
    fn multiply_and_add(values: &mut [f32], base: &[f32], mask: &Mask, first: u64) {
        for (batch, (values, base)) in values.chunks_mut(BATCH).zip(base.chunks(BATCH)).enumerate() {
            let factors = mask.factors(first + (batch * BATCH) as u64);
            for ((value, base), factor) in values.iter_mut().zip(base).zip(&factors) {
                *value = base + *value * factor;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(probability: f64) -> Mask {
        let key = DropoutKey { seed: 1, global_step: 2, micro_batch: 3 };
        Dropout::new(key, probability).mask(4, 3).expect("a mask")
    }

    #[test]
    fn an_element_is_kept_by_its_own_word_alone() {
        let mask = mask(0.3);
        for (row, cols) in [(0, 200), (3, 7), (5, 130)] {
            let mut values = vec![1.0; cols];
            mask.apply(&mut values, row, cols);
            for (col, &value) in values.iter().enumerate() {
                let word = mask.stream.word((row * cols.next_multiple_of(4) + col) as u64);
                let expected = if word >= mask.threshold { mask.scale } else { 0.0 };
                assert_eq!(value, expected, "{row}, {col}");
            }
        }
    }

    #[test]
    fn the_probability_is_that_of_the_config() {
        let mut values = vec![1.0; 1 << 18];
        let cols = values.len();
        mask(0.1).apply(&mut values, 0, cols);
        let dropped = values.iter().filter(|&&value| value == 0.0).count() as f64 / cols as f64;
        assert!((dropped - 0.1).abs() < 0.003, "{dropped}");
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / cols as f64;
        assert!((mean - 1.0).abs() < 0.003, "{mean}");
    }

    #[test]
    fn places_have_masks_of_their_own() {
        let drawn = |step, micro_batch, layer, site| {
            let key = DropoutKey { seed: 1, global_step: step, micro_batch };
            let mut values = vec![1.0; 256];
            Dropout::new(key, 0.5).mask(layer, site).expect("a mask").apply(&mut values, 0, 256);
            values
        };
        let base = drawn(0, 0, 0, 0);
        assert_eq!(base, drawn(0, 0, 0, 0));
        for other in [drawn(1, 0, 0, 0), drawn(0, 1, 0, 0), drawn(0, 0, 1, 0), drawn(0, 0, 0, 2)] {
            assert_ne!(base, other);
        }
        let key = DropoutKey { seed: 1, global_step: 0, micro_batch: 0 };
        assert!(Dropout::new(key, 0.0).mask(0, 0).is_none());
    }
}
