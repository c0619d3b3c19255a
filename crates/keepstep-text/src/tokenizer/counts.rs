//! The statistics of a corpus for training a tokenizer: how often each word occurs, and which characters occur.
//!
//! Any number of threads can collect them. The result does not depend on the order of the texts.

use super::interner::Interner;
use super::words::words;
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The number of occurrences of each word. Its memory grows only with the number of different words.
#[derive(Debug)]
pub struct WordCounts {
    /// One shard per thread of the pool.
    parts: Vec<Mutex<Part>>,
}

#[derive(Debug, Default)]
struct Part {
    words: Interner,
    /// The count of each word, by the word's number.
    counts: Vec<u64>,
}

impl Default for WordCounts {
    fn default() -> WordCounts {
        WordCounts { parts: (0..rayon::current_num_threads()).map(|_| Mutex::default()).collect() }
    }
}

impl WordCounts {
    /// Counts the words of some texts.
    pub fn from_texts(texts: &[&str]) -> WordCounts {
        let counts = WordCounts::default();
        texts.iter().for_each(|text| counts.add(text));
        counts
    }

    /// Adds the words of a text.
    pub fn add(&self, text: &str) {
        let thread = rayon::current_thread_index().unwrap_or(0) % self.parts.len();
        let mut part = self.parts[thread].lock().unwrap_or_else(PoisonError::into_inner);
        for word in words(text) {
            part.add(word.as_bytes(), 1);
        }
    }

    /// Calls `work` with each word and its count, in ascending bytewise order.
    pub(super) fn with_sorted<R>(&self, work: impl FnOnce(Vec<(&[u8], u64)>) -> R) -> R {
        let parts: Vec<_> =
            self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        let mut all: Vec<(&[u8], u64)> = Vec::new();
        for part in &parts {
            all.extend(part.words.words().zip(part.counts.iter().copied()));
        }
        all.par_sort_unstable();
        all.dedup_by(|next, kept| {
            let is_same = next.0 == kept.0;
            kept.1 += if is_same { next.1 } else { 0 };
            is_same
        });
        work(all)
    }
}

impl Part {
    #[inline]
    fn add(&mut self, word: &[u8], count: u64) {
        let (number, is_new) = self.words.number(word);
        if is_new {
            self.counts.push(0);
        }
        self.counts[number] += count;
    }
}

/// The set of characters that occur.
#[derive(Debug)]
pub struct Characters {
    bits: Box<[AtomicU64]>,
}

impl Default for Characters {
    fn default() -> Characters {
        Characters { bits: (0..=char::MAX as usize / 64).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Characters {
    /// Adds the characters of a text.
    pub fn add(&self, text: &str) {
        for character in text.chars() {
            let (place, bit) = (character as usize / 64, 1_u64 << (character as usize % 64));
            // Nearly always the bit is set already. Reading first keeps threads from writing to the same cache line.
            if self.bits[place].load(Ordering::Relaxed) & bit == 0 {
                self.bits[place].fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Returns all characters in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = char> {
        let is_there = |code: u32| {
            self.bits[code as usize / 64].load(Ordering::Relaxed) >> (code as usize % 64) & 1 == 1
        };
        (0..=u32::from(char::MAX)).filter(move |&code| is_there(code)).filter_map(char::from_u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_threads_counts_the_same() {
        let texts: Vec<String> =
            (0..200).map(|index| format!("one {index} and on and on, {}é", index % 7)).collect();
        let count = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let (words, characters) = (WordCounts::default(), Characters::default());
                texts.par_iter().for_each(|text| {
                    words.add(text);
                    characters.add(text);
                });
                let sorted = words.with_sorted(|words| {
                    words.into_iter().map(|(word, count)| (word.to_vec(), count)).collect::<Vec<_>>()
                });
                (sorted, characters.iter().collect::<String>())
            })
        };
        let (words, characters) = count(1);
        assert!(words.contains(&(b" and".to_vec(), 400)) && words.is_sorted());
        assert_eq!(characters, " ,0123456789adenoé");
        assert_eq!(count(3), (words, characters));
    }
}
