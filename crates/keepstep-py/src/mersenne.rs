//! States of the Mersenne Twister, which NumPy's global generator is.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Words of a state.
const NUM_WORDS: usize = 624;

/// The state of MT19937 after seeding with the two words of `key`, low first, as it lies in NumPy's memory: 624 words of
/// 32 bits and the number of words used, 624. It is `init_by_array` of Matsumoto and Nishimura's `mt19937ar.c` (2002).
#[pyfunction]
pub(crate) fn mersenne_twister(py: Python<'_>, key: u64) -> Bound<'_, PyBytes> {
    let words = init_by_array([key as u32, (key >> 32) as u32]);
    let mut bytes = [0; 4 * (NUM_WORDS + 1)];
    for (out, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words.iter().chain(&[NUM_WORDS as u32])) {
        *out = word.to_ne_bytes();
    }
    PyBytes::new(py, &bytes)
}

fn init_by_array(key: [u32; 2]) -> [u32; NUM_WORDS] {
    let mut words = const { init(19_650_218) };
    let mixed = |before: u32, factor: u32| (before ^ before >> 30).wrapping_mul(factor);
    // The place goes round in 1..=623, and 0 holds a copy of the last word.
    let mut place = 1;
    for round in 0..NUM_WORDS {
        let added = key[round % 2].wrapping_add(round as u32 % 2);
        words[place] = (words[place] ^ mixed(words[place - 1], 1_664_525)).wrapping_add(added);
        advance(&mut place, &mut words);
    }
    for _ in 1..NUM_WORDS {
        words[place] = (words[place] ^ mixed(words[place - 1], 1_566_083_941)).wrapping_sub(place as u32);
        advance(&mut place, &mut words);
    }
    words[0] = 0x8000_0000;
    words
}

fn advance(place: &mut usize, words: &mut [u32; NUM_WORDS]) {
    *place += 1;
    if *place == NUM_WORDS {
        words[0] = words[NUM_WORDS - 1];
        *place = 1;
    }
}

/// `init_genrand` of the same source.
const fn init(seed: u32) -> [u32; NUM_WORDS] {
    let mut words = [seed; NUM_WORDS];
    let mut place = 1;
    while place < NUM_WORDS {
        let before = words[place - 1];
        words[place] = (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(place as u32);
        place += 1;
    }
    words
}
