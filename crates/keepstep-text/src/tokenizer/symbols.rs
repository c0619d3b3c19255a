//! The training words of a BPE, as tokens that merge in place.

/// Marks the slot between two words.
const BOUNDARY: u32 = u32::MAX;

/// Marks a slot inside a token, where no pair can begin.
const INSIDE: u32 = u32::MAX - 1;

/// The largest number of slots. Places are 32 bits wide.
pub(super) const MOST_SLOTS: usize = u32::MAX as usize - 2;

/// All different words, one after the other, one slot per byte. A token of several bytes has its number in its first
/// and its last slot, and its neighbours on both sides are found without links.
pub(super) struct Symbols {
    slots: Vec<u32>,
    /// The number of bytes of each token.
    lens: Vec<u32>,
    /// How often words occur, each count with the first slot of its words. Words are sorted by count, which keeps this
    /// list short.
    counts: Vec<(u32, u64)>,
}

/// The result of [`Symbols::merge`].
pub(super) struct Merged {
    /// How often the word occurs.
    pub(super) count: u64,
    /// The token before the new one, and its place.
    pub(super) before: Option<(u32, u32)>,
    /// The token after it.
    pub(super) after: Option<u32>,
}

impl Symbols {
    /// Writes the words as tokens of their bytes. Each word comes with its count. Returns `None` if there are too many
    /// bytes.
    pub(super) fn new(mut words: Vec<(&[u8], u64)>) -> Option<Symbols> {
        let num_slots = 1 + words.iter().map(|(word, _)| word.len() + 1).sum::<usize>();
        if num_slots > MOST_SLOTS {
            return None;
        }
        words.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let mut slots = Vec::with_capacity(num_slots);
        slots.push(BOUNDARY);
        let mut counts: Vec<(u32, u64)> = Vec::new();
        for (word, count) in words {
            if counts.last().is_none_or(|&(_, last)| last != count) {
                counts.push((slots.len() as u32, count));
            }
            slots.extend(word.iter().map(|&byte| u32::from(byte)));
            slots.push(BOUNDARY);
        }
        Some(Symbols { slots, lens: vec![1; 256], counts })
    }

    /// Adds a token of `len` bytes.
    pub(super) fn add_token(&mut self, len: u32) {
        self.lens.push(len);
    }

    /// Returns the number of bytes in a token.
    pub(super) fn len(&self, token: u32) -> u32 {
        self.lens[token as usize]
    }

    /// Returns every pair of neighbouring bytes, before any merge: its place, and how often its word occurs.
    pub(super) fn byte_pairs(&self) -> impl Iterator<Item = (u32, (u8, u8), u64)> {
        let ends = self.counts.iter().skip(1).map(|&(start, _)| start).chain([self.slots.len() as u32]);
        self.counts.iter().zip(ends).flat_map(move |(&(start, count), end)| {
            let slots = &self.slots[start as usize..end as usize];
            slots.windows(2).zip(start..).filter_map(move |(two, place)| {
                Some((place, (u8::try_from(two[0]).ok()?, u8::try_from(two[1]).ok()?), count))
            })
        })
    }

    /// Merges the pair at a place, if it is still there.
    #[inline]
    pub(super) fn merge(&mut self, place: u32, (left, right): (u32, u32), token: u32) -> Option<Merged> {
        let start = place as usize;
        let middle = start + self.len(left) as usize;
        if self.slots[start] != left || self.slots.get(middle) != Some(&right) {
            return None;
        }
        let end = middle + self.len(right) as usize;
        self.slots[middle] = INSIDE;
        self.slots[start] = token;
        self.slots[end - 1] = token;
        let is_token = |&slot: &u32| slot != BOUNDARY;
        let before = Some(self.slots[start - 1]).filter(is_token);
        Some(Merged {
            count: self.count(place),
            before: before.map(|before| (before, place - self.len(before))),
            after: Some(self.slots[end]).filter(is_token),
        })
    }

    /// Returns how often the word at a place occurs.
    #[inline]
    fn count(&self, place: u32) -> u64 {
        self.counts[self.counts.partition_point(|&(start, _)| start <= place) - 1].1
    }
}
