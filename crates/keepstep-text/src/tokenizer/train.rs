//! Trains byte-pair encoding (Sennrich, Haddow and Birch, 2016). The most frequent pair of neighbours becomes a token,
//! again and again. Of equally frequent pairs, the one with the smallest tokens wins.
//!
//! The trainer of Hugging Face's library keeps stale copies of a pair in its queue. Which of two equals it meets first
//! depends on the order of a hash map. Here every choice is defined.
//!
//! A merge visits only the places where its pair occurs, never whole words. The time grows with the total length of the
//! different words, however long a single one is: a text without spaces has words of 64 KiB and more.

use super::bpe::byte_alphabet;
use super::counts::WordCounts;
use super::pairs::{Neighbors, PairCounts};
use super::symbols::{MOST_SLOTS, Symbols};
use std::collections::BTreeMap;

/// A vocabulary in the order of its tokens, and the merges in the order of training.
pub(super) struct Trained {
    pub(super) vocab: Vec<String>,
    pub(super) merges: Vec<(String, String)>,
}

/// Why training has no result.
pub(super) enum TrainFailure {
    /// The user asked to stop.
    Stopped,
    /// The different words have too many bytes.
    TooManyWords,
}

/// The largest total length of the different words, in bytes.
pub(super) const MOST_BYTES: usize = MOST_SLOTS;

/// A pair that occurs once is not merged.
const MIN_FREQUENCY: u64 = 2;

/// The number of merges between two calls of `progress`.
const MERGES: usize = 16;

/// The number of places in one merge between two calls of `progress`.
const PLACES: usize = 1 << 18;

/// Trains a vocabulary of at most `vocab_size` entries. `progress` is called with the number of entries so far and the
/// final number, and returns whether to continue.
pub(super) fn train(
    words: &WordCounts,
    vocab_size: usize,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Trained, TrainFailure> {
    let mut trainer = words.with_sorted(Trainer::new).ok_or(TrainFailure::TooManyWords)?;
    loop {
        let len = trainer.vocab.len();
        let mut go_on = || progress(len, vocab_size);
        if trainer.merges.len().is_multiple_of(MERGES) && !go_on() {
            return Err(TrainFailure::Stopped);
        }
        if len >= vocab_size {
            break;
        }
        match trainer.merge_next(&mut go_on) {
            Step::Merged => {}
            Step::NothingLeft => break,
            Step::Stopped => return Err(TrainFailure::Stopped),
        }
    }
    Ok(Trained { vocab: trainer.vocab, merges: trainer.merges })
}

enum Step {
    Merged,
    NothingLeft,
    Stopped,
}

struct Trainer {
    vocab: Vec<String>,
    tokens: BTreeMap<String, u32>,
    merges: Vec<(String, String)>,
    symbols: Symbols,
    pairs: PairCounts,
    /// Empty between two merges.
    before: Neighbors,
    after: Neighbors,
}

impl Trainer {
    fn new(words: Vec<(&[u8], u64)>) -> Option<Trainer> {
        let vocab = byte_alphabet();
        let tokens: BTreeMap<String, u32> = vocab.iter().cloned().zip(0..).collect();
        let symbols = Symbols::new(words)?;
        let pairs = PairCounts::new(&symbols);
        let (before, after) = (Neighbors::default(), Neighbors::default());
        Some(Trainer { vocab, tokens, merges: Vec::new(), symbols, pairs, before, after })
    }

    /// Makes the most frequent pair a token.
    fn merge_next(&mut self, go_on: &mut dyn FnMut() -> bool) -> Step {
        let Some((pair, mut places)) = self.pairs.take_most_frequent(MIN_FREQUENCY) else {
            return Step::NothingLeft;
        };
        let token = self.add_token(pair);
        // Of three equal tokens the first two are merged, so places must be visited from left to right. They are sorted
        // unless a token was made in two ways.
        if pair.0 == pair.1 && !places.is_sorted() {
            places.sort_unstable();
        }
        for (index, place) in places.into_iter().enumerate() {
            if index % PLACES == PLACES - 1 && !go_on() {
                return Step::Stopped;
            }
            let Some(merged) = self.symbols.merge(place, pair, token) else { continue };
            if let Some((before, place)) = merged.before {
                self.before.add(before, merged.count, place);
            }
            if let Some(after) = merged.after {
                self.after.add(after, merged.count, place);
            }
        }
        // Additions come first: otherwise a count could fall below zero on the way.
        let mut gone = Vec::new();
        for (before, occurrences) in self.before.drain() {
            gone.push(((before, pair.0), occurrences.count));
            self.pairs.add((before, token), occurrences);
        }
        for (after, occurrences) in self.after.drain() {
            gone.push(((pair.1, after), occurrences.count));
            self.pairs.add((token, after), occurrences);
        }
        for (pair, count) in gone {
            self.pairs.subtract(pair, count);
        }
        Step::Merged
    }

    /// Returns the token of a pair's text: a new one, unless other tokens made the same text before.
    fn add_token(&mut self, pair: (u32, u32)) -> u32 {
        let (left, right) = (self.vocab[pair.0 as usize].clone(), self.vocab[pair.1 as usize].clone());
        let text = format!("{left}{right}");
        let len = self.symbols.len(pair.0) + self.symbols.len(pair.1);
        let token = *self.tokens.entry(text.clone()).or_insert_with(|| {
            self.vocab.push(text);
            self.symbols.add_token(len);
            self.vocab.len() as u32 - 1
        });
        self.merges.push((left, right));
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;

    type Words = Vec<(Vec<u8>, u64)>;

    fn counted(texts: &[&str]) -> Words {
        WordCounts::from_texts(texts)
            .with_sorted(|words| words.into_iter().map(|(word, count)| (word.to_vec(), count)).collect())
    }

    fn trained(words: &Words, vocab_size: usize) -> Vec<(String, String)> {
        let words = words.iter().map(|(word, count)| (&word[..], *count)).collect();
        let mut trainer = Trainer::new(words).expect("few words");
        while trainer.vocab.len() < vocab_size && matches!(trainer.merge_next(&mut || true), Step::Merged) {}
        trainer.merges
    }

    /// The definition: counts all pairs again for each merge.
    fn obvious(words: &Words, vocab_size: usize) -> Vec<(String, String)> {
        let mut vocab = byte_alphabet();
        let mut words: Vec<(Vec<u32>, u64)> = words
            .iter()
            .map(|(word, count)| (word.iter().map(|&byte| u32::from(byte)).collect(), *count))
            .collect();
        let mut merges = Vec::new();
        while vocab.len() < vocab_size {
            let mut pairs: BTreeMap<(u32, u32), u64> = BTreeMap::new();
            for (word, count) in &words {
                for pair in word.windows(2) {
                    *pairs.entry((pair[0], pair[1])).or_default() += count;
                }
            }
            let best = pairs.into_iter().map(|(pair, count)| (count, Reverse(pair))).max();
            let Some((count, Reverse(pair))) = best else { break };
            if count < MIN_FREQUENCY {
                break;
            }
            let (left, right) = (vocab[pair.0 as usize].clone(), vocab[pair.1 as usize].clone());
            let text = format!("{left}{right}");
            merges.push((left, right));
            let known = vocab.iter().position(|known| *known == text);
            let token = known.unwrap_or_else(|| {
                vocab.push(text);
                vocab.len() - 1
            });
            for (word, _) in &mut words {
                *word = merged(word, pair, token as u32);
            }
        }
        merges
    }

    /// Returns the word with each `pair`, from the left, replaced by `token`.
    fn merged(word: &[u32], pair: (u32, u32), token: u32) -> Vec<u32> {
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

    #[test]
    fn it_does_what_counting_anew_does() {
        let text = "abababa aaaa aaab the theme then thesis banana bandana ananas the the aa ab abab bab";
        let words = counted(&[text, "fn main() {\n    let mut main = main;\n}\n"]);
        let expected = obvious(&words, 330);
        assert!(expected.len() > 12, "{}", expected.len());
        assert_eq!(trained(&words, 330), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
        #[test]
        fn of_any_words(words in prop::collection::vec(("[ab]{1,30}|[abc]{1,40}|[a-d]{1,9}|\\PC{1,8}", 1_u64..6), 1..12)) {
            let mut words: Words = words.into_iter().map(|(word, count)| (word.into_bytes(), count)).collect();
            words.sort();
            words.dedup_by(|next, kept| next.0 == kept.0);
            prop_assert_eq!(trained(&words, 400), obvious(&words, 400));
        }
    }

    #[test]
    fn the_texts_order_does_not_matter() {
        let texts = ["the one and the other", "another one", "on and on"];
        let mut back = texts;
        back.reverse();
        let train =
            |texts: &[&str], go_on: bool| train(&WordCounts::from_texts(texts), 270, &mut |_, _| go_on);
        let one = train(&texts, true).ok().expect("merges");
        let other = train(&back, true).ok().expect("merges");
        assert!(matches!(train(&texts, false), Err(TrainFailure::Stopped)));
        assert_eq!(one.merges, other.merges);
    }

    /// A word as long as a text must not cost its length at each merge.
    #[test]
    fn a_text_without_spaces() {
        let mut state = 1_u32;
        let mut letter = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b"ACGT"[(state >> 30) as usize])
        };
        let text: String = (0..1_000_000).map(|_| letter()).collect();
        let (mut calls, mut last) = (0, 0);
        let mut progress = |done: usize, total: usize| {
            assert!(done >= last && done <= total && total == 1_000, "{done} of {total}");
            (calls, last) = (calls + 1, done);
            true
        };
        let started = std::time::Instant::now();
        let trained = train(&WordCounts::from_texts(&[&text]), 1_000, &mut progress).ok().expect("merges");
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
        assert_eq!((trained.vocab.len(), last), (1_000, 992));
        assert!(calls > 40, "{calls}");
    }
}
