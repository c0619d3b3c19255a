//! Numbers for words.

/// Numbers the different words from 0 on, in the order of their first occurrence. It uses open addressing. No result
/// depends on the order of the slots.
#[derive(Debug, Clone, Default)]
pub(super) struct Interner {
    /// Each slot holds the number of a word plus 1, or 0 if it is free. Their count is a power of two, and at most half
    /// are used.
    slots: Vec<u32>,
    words: Vec<Word>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Word {
    hash: u64,
    start: usize,
    len: usize,
}

impl Interner {
    /// Returns the word's number, and whether the word is new.
    #[inline]
    pub(super) fn number(&mut self, word: &[u8]) -> (usize, bool) {
        if self.words.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let hash = hash(word);
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            match self.slots[slot] {
                0 => break,
                found => {
                    let number = found as usize - 1;
                    let known = self.words[number];
                    if known.hash == hash && self.text(known) == word {
                        return (number, false);
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
        let number = self.words.len();
        self.slots[slot] = number as u32 + 1;
        self.words.push(Word { hash, start: self.bytes.len(), len: word.len() });
        self.bytes.extend_from_slice(word);
        (number, true)
    }

    /// Returns the words, by number.
    pub(super) fn words(&self) -> impl Iterator<Item = &[u8]> {
        self.words.iter().map(|&word| self.text(word))
    }

    /// Returns the number of words.
    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// Returns the number of bytes in all words.
    pub(super) fn num_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Removes all words and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.slots.fill(0);
        self.words.clear();
        self.bytes.clear();
    }

    #[inline]
    fn text(&self, word: Word) -> &[u8] {
        &self.bytes[word.start..word.start + word.len]
    }

    fn grow(&mut self) {
        let len = (self.slots.len() * 2).max(1 << 10);
        self.slots.clear();
        self.slots.resize(len, 0);
        for (number, word) in self.words.iter().enumerate() {
            let mut slot = word.hash as usize & (len - 1);
            while self.slots[slot] != 0 {
                slot = (slot + 1) & (len - 1);
            }
            self.slots[slot] = number as u32 + 1;
        }
    }
}

/// Hashes eight bytes at a time, and folds each product onto itself.
#[inline]
fn hash(word: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let fold = |value: u64| {
        let product = u128::from(value) * u128::from(MULTIPLIER);
        product as u64 ^ (product >> 64) as u64
    };
    let mut state = word.len() as u64;
    let mut chunks = word.chunks_exact(8);
    for chunk in &mut chunks {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        state = fold(state ^ u64::from_le_bytes(bytes));
    }
    let mut last = 0;
    for &byte in chunks.remainder() {
        last = last << 8 | u64::from(byte);
    }
    fold(state ^ last ^ MULTIPLIER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_first_meeting() {
        let mut interner = Interner::default();
        let words: Vec<String> =
            (0..5_000).map(|index| "x".repeat(index % 40) + &index.to_string()).collect();
        for (index, word) in words.iter().enumerate() {
            assert_eq!(interner.number(word.as_bytes()), (index, true));
        }
        for (index, word) in words.iter().enumerate() {
            assert_eq!(interner.number(word.as_bytes()), (index, false));
        }
        assert!(interner.words().eq(words.iter().map(String::as_bytes)));
        interner.clear();
        assert_eq!(interner.number(b""), (0, true));
        assert_eq!(interner.len(), 1);
    }
}
