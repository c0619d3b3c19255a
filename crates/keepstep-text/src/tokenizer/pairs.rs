//! The pairs of neighbouring tokens, and the most frequent of them.

use super::symbols::Symbols;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

pub(super) type Pair = (u32, u32);

/// The counts and places of all pairs.
#[derive(Default)]
pub(super) struct PairCounts {
    known: BTreeMap<Pair, Occurrences>,
    /// Each pair with its count when it was pushed. A pair whose count changes is pushed again, so one entry is always
    /// current.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

/// The occurrences of a pair.
#[derive(Default)]
pub(super) struct Occurrences {
    /// The number of occurrences in the corpus.
    pub(super) count: u64,
    /// The places in the different words. The pair may no longer be at some of them.
    pub(super) places: Vec<u32>,
}

impl PairCounts {
    /// Counts the pairs of bytes.
    pub(super) fn new(symbols: &Symbols) -> PairCounts {
        let place_of = |(left, right): (u8, u8)| usize::from(left) << 8 | usize::from(right);
        let mut totals = vec![(0_usize, 0_u64); 1 << 16];
        for (_, pair, count) in symbols.byte_pairs() {
            let (num_places, total) = &mut totals[place_of(pair)];
            *num_places += 1;
            *total += count;
        }
        let exactly = |&(num_places, count): &(usize, u64)| Occurrences {
            count,
            places: Vec::with_capacity(num_places),
        };
        let mut table: Vec<Occurrences> = totals.iter().map(exactly).collect();
        for (place, pair, _) in symbols.byte_pairs() {
            table[place_of(pair)].places.push(place);
        }
        let mut pairs = PairCounts::default();
        for (occurrences, index) in table.into_iter().zip(0_u32..) {
            if occurrences.count > 0 {
                let pair = (index >> 8, index & 0xFF);
                pairs.queue.push((occurrences.count, Reverse(pair)));
                pairs.known.insert(pair, occurrences);
            }
        }
        pairs
    }

    /// Removes and returns the most frequent pair. Of equally frequent pairs, the one with the smallest tokens wins.
    /// Returns `None` if it occurs less often than `least`.
    pub(super) fn take_most_frequent(&mut self, least: u64) -> Option<(Pair, Vec<u32>)> {
        loop {
            let (count, Reverse(pair)) = self.queue.pop()?;
            if count < least {
                return None;
            }
            if self.known.get(&pair).is_some_and(|known| known.count == count) {
                return self.known.remove(&pair).map(|occurrences| (pair, occurrences.places));
            }
        }
    }

    /// Adds occurrences of a pair.
    pub(super) fn add(&mut self, pair: Pair, more: Occurrences) {
        let known = self.known.entry(pair).or_default();
        known.count += more.count;
        if known.places.is_empty() {
            known.places = more.places;
        } else {
            known.places.extend(more.places);
        }
        self.queue.push((known.count, Reverse(pair)));
    }

    /// Subtracts occurrences of a pair, if the pair is known.
    pub(super) fn subtract(&mut self, pair: Pair, count: u64) {
        let Some(known) = self.known.get_mut(&pair) else { return };
        debug_assert!(known.count >= count, "more occurrences are taken away than there are");
        known.count = known.count.saturating_sub(count);
        if known.count == 0 {
            self.known.remove(&pair);
        } else {
            self.queue.push((known.count, Reverse(pair)));
        }
    }
}

/// The changes that one merge makes to the pairs on one side of the new token, by the token on that side.
#[derive(Default)]
pub(super) struct Neighbors {
    by_token: Vec<Occurrences>,
    /// The tokens that occur on that side.
    tokens: Vec<u32>,
}

impl Neighbors {
    #[inline]
    pub(super) fn add(&mut self, token: u32, count: u64, place: u32) {
        if self.by_token.len() <= token as usize {
            self.by_token.resize_with(token as usize + 1, Occurrences::default);
        }
        let occurrences = &mut self.by_token[token as usize];
        if occurrences.places.is_empty() {
            self.tokens.push(token);
        }
        occurrences.count += count;
        occurrences.places.push(place);
    }

    /// Removes and returns all changes.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u32, Occurrences)> {
        let by_token = &mut self.by_token;
        self.tokens.drain(..).map(|token| (token, std::mem::take(&mut by_token[token as usize])))
    }
}
