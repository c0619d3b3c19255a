//! Training byte-pair encoding (Sennrich, Haddow and Birch, 2016): the most frequent pair of neighbours becomes a token,
//! again and again; of equally frequent ones the pair of the smallest tokens.
//!
//! The library's own trainer keeps stale copies of a pair in its queue, and which of two equal ones it meets first hangs
//! on the order of a hash map. Here every choice is defined.

use super::bpe::byte_alphabet;
use super::counts::WordCounts;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A vocabulary in the order of its tokens, and the merges in the order of their making.
pub(super) struct Trained {
    pub(super) vocab: Vec<String>,
    pub(super) merges: Vec<(String, String)>,
}

type Pair = (u32, u32);

/// Pairs that occur once are no pattern.
const MIN_FREQUENCY: u64 = 2;

/// Merges between two questions whether to go on.
const PATIENCE: usize = 16;

/// None where `go_on` says no.
pub(super) fn train(
    words: &WordCounts,
    vocab_size: usize,
    go_on: &mut dyn FnMut() -> bool,
) -> Option<Trained> {
    let mut trainer = Trainer::new(&words.sorted());
    loop {
        if trainer.merges.len().is_multiple_of(PATIENCE) && !go_on() {
            return None;
        }
        if trainer.vocab.len() >= vocab_size || !trainer.merge_next() {
            break;
        }
    }
    Some(Trained { vocab: trainer.vocab, merges: trainer.merges })
}

struct Trainer {
    vocab: Vec<String>,
    tokens: BTreeMap<String, u32>,
    merges: Vec<(String, String)>,
    words: Vec<(Vec<u32>, u64)>,
    counts: BTreeMap<Pair, u64>,
    /// The words in which a pair was seen; it may have gone since.
    places: BTreeMap<Pair, Vec<u32>>,
    /// What each pair counted when it was pushed. A count that has changed since is pushed again, so that the right one
    /// is always there.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Trainer {
    fn new(counts: &BTreeMap<Vec<u8>, u64>) -> Trainer {
        let vocab = byte_alphabet();
        let tokens: BTreeMap<String, u32> = vocab.iter().cloned().zip(0..).collect();
        // The first 256 tokens are the bytes.
        let spell = |word: &[u8]| word.iter().map(|&byte| u32::from(byte)).collect();
        let words: Vec<(Vec<u32>, u64)> = counts.iter().map(|(word, &count)| (spell(word), count)).collect();
        let mut trainer = Trainer {
            vocab,
            tokens,
            merges: Vec::new(),
            words,
            counts: BTreeMap::new(),
            places: BTreeMap::new(),
            queue: BinaryHeap::new(),
        };
        for index in 0..trainer.words.len() {
            let (word, count) = &trainer.words[index];
            for pair in word.windows(2) {
                let pair = (pair[0], pair[1]);
                *trainer.counts.entry(pair).or_default() += count;
                note(&mut trainer.places, pair, index);
            }
        }
        trainer.queue = trainer.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        trainer
    }

    /// Makes a token of the most frequent pair; false where there is none.
    fn merge_next(&mut self) -> bool {
        let pair = loop {
            let Some((count, Reverse(pair))) = self.queue.pop() else { return false };
            if count < MIN_FREQUENCY {
                return false;
            }
            if self.counts.get(&pair) == Some(&count) {
                break pair;
            }
        };
        let (left, right) = (self.vocab[pair.0 as usize].clone(), self.vocab[pair.1 as usize].clone());
        let text = format!("{left}{right}");
        let token = *self.tokens.entry(text.clone()).or_insert_with(|| {
            self.vocab.push(text);
            self.vocab.len() as u32 - 1
        });
        self.merges.push((left, right));
        let mut changed = BTreeMap::new();
        for index in self.places.remove(&pair).unwrap_or_default() {
            let (word, count) = &mut self.words[index as usize];
            let before = std::mem::take(word);
            *word = merged(&before, pair, token);
            if word.len() == before.len() {
                continue;
            }
            for pair in before.windows(2) {
                *changed.entry((pair[0], pair[1])).or_insert(0) -= *count as i64;
            }
            for pair in word.windows(2) {
                let pair = (pair[0], pair[1]);
                *changed.entry(pair).or_insert(0) += *count as i64;
                if pair.0 == token || pair.1 == token {
                    note(&mut self.places, pair, index as usize);
                }
            }
        }
        for (pair, change) in changed.into_iter().filter(|&(_, change)| change != 0) {
            let count = self.counts.entry(pair).or_default();
            *count = count.saturating_add_signed(change);
            if *count > 0 {
                self.queue.push((*count, Reverse(pair)));
            } else {
                self.counts.remove(&pair);
            }
        }
        self.counts.remove(&pair);
        true
    }
}

/// Words are met in ascending order, so that a word's second time is next to its first.
fn note(places: &mut BTreeMap<Pair, Vec<u32>>, pair: Pair, word: usize) {
    let list = places.entry(pair).or_default();
    if list.last() != Some(&(word as u32)) {
        list.push(word as u32);
    }
}

/// The word with each `pair`, from the left, replaced by `token`.
fn merged(word: &[u32], pair: Pair, token: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(word.len());
    let mut index = 0;
    while index < word.len() {
        if word[index] == pair.0 && word.get(index + 1) == Some(&pair.1) {
            out.push(token);
            index += 2;
        } else {
            out.push(word[index]);
            index += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts everything anew for each merge.
    fn obvious(counts: &BTreeMap<Vec<u8>, u64>, vocab_size: usize) -> Vec<(String, String)> {
        let mut trainer = Trainer::new(counts);
        let mut merges = Vec::new();
        while trainer.vocab.len() < vocab_size {
            let mut pairs: BTreeMap<Pair, u64> = BTreeMap::new();
            for (word, count) in &trainer.words {
                for pair in word.windows(2) {
                    *pairs.entry((pair[0], pair[1])).or_default() += count;
                }
            }
            let best = pairs.into_iter().map(|(pair, count)| (count, Reverse(pair))).max();
            let Some((count, Reverse(pair))) = best else { break };
            if count < MIN_FREQUENCY {
                break;
            }
            let text = |token: u32| trainer.vocab[token as usize].clone();
            merges.push((text(pair.0), text(pair.1)));
            let new = text(pair.0) + &text(pair.1);
            let token = *trainer.tokens.entry(new.clone()).or_insert_with(|| {
                trainer.vocab.push(new);
                trainer.vocab.len() as u32 - 1
            });
            for (word, _) in &mut trainer.words {
                *word = merged(word, pair, token);
            }
        }
        merges
    }

    #[test]
    fn it_does_what_counting_anew_does() {
        let text = "abababa aaaa aaab the theme then thesis banana bandana ananas the the aa ab abab bab";
        let counts = WordCounts::of(&[text, "fn main() {\n    let mut main = main;\n}\n"]).sorted();
        let mut trainer = Trainer::new(&counts);
        while trainer.vocab.len() < 330 && trainer.merge_next() {}
        let expected = obvious(&counts, 330);
        assert!(expected.len() > 12, "{}", expected.len());
        assert_eq!(trainer.merges, expected);
    }

    #[test]
    fn the_texts_order_does_not_matter() {
        let texts = ["the one and the other", "another one", "on and on"];
        let mut back = texts;
        back.reverse();
        let train = |texts: &[&str], go_on: bool| train(&WordCounts::of(texts), 270, &mut || go_on);
        let one = train(&texts, true).expect("merges");
        let other = train(&back, true).expect("merges");
        assert!(train(&texts, false).is_none());
        assert_eq!(one.merges, other.merges);
    }
}
