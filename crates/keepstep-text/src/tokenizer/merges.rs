//! Byte-level BPE with the results of Hugging Face's library, several times as fast.
//!
//! A word starts as the tokens of its bytes. The neighbouring pair with the lowest rank, the leftmost of equals, is
//! merged until no pair has a rank. Words repeat, so their tokens are cached.

use super::bpe::byte_alphabet;
use super::interner::Interner;
use super::words::words;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Arc, Mutex, PoisonError};

/// The length in bytes above which words are merged with a queue.
const SHORT: usize = 48;

/// The limits of a cache. A cache that reaches either is cleared.
const MEMORY_WORDS: usize = 1 << 17;
const MEMORY_BYTES: usize = 1 << 21;

/// Stands for "no rank".
const NONE: u32 = u32::MAX;

/// An encoder for the simplest kind of `tokenizer.json`, GPT-2's.
#[derive(Debug)]
pub(super) struct Merges {
    table: Arc<Table>,
    /// The caches, each lent to one thread at a time.
    memories: Mutex<Vec<Memory>>,
}

#[derive(Debug)]
struct Table {
    /// The token of each byte.
    bytes: [u32; 256],
    pairs: Pairs,
    /// Special tokens, which are found in the text before it is split into words.
    special: Vec<(String, u32)>,
}

/// A cache of the tokens of words.
#[derive(Debug, Default)]
struct Memory {
    words: Interner,
    /// The start and the end of each word's tokens, by the word's number.
    places: Vec<(u32, u32)>,
    tokens: Vec<u32>,
    parts: Vec<Part>,
}

/// A token of the word being merged, and the pair that it forms with the next token.
#[derive(Debug, Clone, Copy)]
struct Part {
    token: u32,
    rank: u32,
    merged: u32,
}

impl Clone for Merges {
    fn clone(&self) -> Merges {
        Merges { table: Arc::clone(&self.table), memories: Mutex::default() }
    }
}

impl Merges {
    /// Reads a tokenizer. Returns `None` if it uses a feature that this encoder does not implement.
    pub(super) fn from_json(json: &str) -> Option<Merges> {
        let table = Table::from_json(&serde_json::from_str(json).ok()?)?;
        Some(Merges { table: Arc::new(table), memories: Mutex::default() })
    }

    /// Encodes a text.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let lend = || self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = lend().pop().unwrap_or_default();
        let mut out = Vec::with_capacity(text.len() / 3);
        let mut rest = text;
        let mut finder = Finder::new(&self.table.special, text);
        while let Some((at, content, token)) = finder.next(text.len() - rest.len()) {
            let (before, after) = rest.split_at(at - (text.len() - rest.len()));
            self.table.encode(before, &mut memory, &mut out);
            out.push(token);
            rest = &after[content..];
        }
        self.table.encode(rest, &mut memory, &mut out);
        lend().push(memory);
        out
    }
}

impl Table {
    fn from_json(json: &Value) -> Option<Table> {
        let is_null = |value: &Value, key: &str| value.get(key).is_none_or(Value::is_null);
        let is_empty = |value: &Value, key: &str| is_null(value, key) || value[key] == "";
        let is_false = |value: &Value, key: &str| is_null(value, key) || value[key] == false;
        let (model, splitter) = (json.get("model")?, json.get("pre_tokenizer")?);
        let plain = ["truncation", "padding", "normalizer"].iter().all(|key| is_null(json, key))
            && (is_null(json, "post_processor")
                || json["post_processor"]["type"] == "ByteLevel"
                || json["post_processor"]["type"] == "TemplateProcessing")
            && splitter.get("type")? == "ByteLevel"
            && splitter.get("add_prefix_space")? == false
            && splitter.get("use_regex").is_none_or(|value| *value == true)
            && model.get("type")? == "BPE"
            && is_null(model, "dropout")
            && is_empty(model, "continuing_subword_prefix")
            && is_empty(model, "end_of_word_suffix")
            && is_false(model, "ignore_merges");
        if !plain {
            return None;
        }
        let token = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let mut vocab = BTreeMap::new();
        for (text, value) in model.get("vocab")?.as_object()? {
            vocab.insert(text.as_str(), token(value)?);
        }
        // If a token stood for two texts, either could lead to it.
        if vocab.values().collect::<BTreeSet<_>>().len() != vocab.len() {
            return None;
        }
        let mut bytes = [0; 256];
        for (byte, text) in bytes.iter_mut().zip(byte_alphabet()) {
            *byte = *vocab.get(text.as_str())?;
        }
        let merges = model.get("merges")?.as_array()?;
        let mut pairs = Pairs::new(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            let (left, right) = match merge {
                Value::String(text) => text.split_once(' ')?,
                Value::Array(list) => match list.as_slice() {
                    [left, right] => (left.as_str()?, right.as_str()?),
                    _ => return None,
                },
                _ => return None,
            };
            let pair = (*vocab.get(left)?, *vocab.get(right)?);
            pairs.insert(pair, (rank as u32, *vocab.get(format!("{left}{right}").as_str())?));
        }
        Some(Table { bytes, pairs, special: special(json)? })
    }

    #[inline]
    fn encode(&self, text: &str, memory: &mut Memory, out: &mut Vec<u32>) {
        for word in words(text) {
            let word = word.as_bytes();
            if word.len() > SHORT {
                self.merge_long(word, out);
                continue;
            }
            if memory.words.len() >= MEMORY_WORDS || memory.words.num_bytes() >= MEMORY_BYTES {
                memory.clear();
            }
            let (number, is_new) = memory.words.number(word);
            if is_new {
                let start = memory.tokens.len();
                self.merge(word, &mut memory.parts, &mut memory.tokens);
                memory.places.push((start as u32, (memory.tokens.len() - start) as u32));
            }
            let (start, len) = memory.places[number];
            out.extend_from_slice(&memory.tokens[start as usize..(start + len) as usize]);
        }
    }

    /// Merges a short word. Each merge examines all pairs.
    fn merge(&self, word: &[u8], parts: &mut Vec<Part>, out: &mut Vec<u32>) {
        parts.clear();
        parts.extend(word.iter().map(|&byte| Part {
            token: self.bytes[byte as usize],
            rank: NONE,
            merged: 0,
        }));
        for index in 0..parts.len() {
            self.pair_up(parts, index);
        }
        loop {
            let (mut best, mut at) = (NONE, 0);
            for (index, part) in parts.iter().enumerate() {
                if part.rank < best {
                    (best, at) = (part.rank, index);
                }
            }
            if best == NONE {
                break;
            }
            parts[at].token = parts[at].merged;
            parts.remove(at + 1);
            self.pair_up(parts, at);
            if at > 0 {
                self.pair_up(parts, at - 1);
            }
        }
        out.extend(parts.iter().map(|part| part.token));
    }

    #[inline]
    fn pair_up(&self, parts: &mut [Part], index: usize) {
        let found = parts.get(index + 1).and_then(|next| self.pairs.get((parts[index].token, next.token)));
        (parts[index].rank, parts[index].merged) = found.unwrap_or((NONE, 0));
    }

    /// Merges a word of any length. The time grows only slightly faster than the length.
    fn merge_long(&self, word: &[u8], out: &mut Vec<u32>) {
        /// The link beyond either end of the word.
        const END: usize = usize::MAX;
        #[derive(Clone, Copy)]
        struct Link {
            token: u32,
            previous: usize,
            next: usize,
            is_there: bool,
        }
        let len = word.len();
        let mut links: Vec<Link> = word
            .iter()
            .enumerate()
            .map(|(index, &byte)| Link {
                token: self.bytes[byte as usize],
                previous: index.checked_sub(1).unwrap_or(END),
                next: if index + 1 < len { index + 1 } else { END },
                is_there: true,
            })
            .collect();
        let mut queue = BinaryHeap::new();
        let push = |queue: &mut BinaryHeap<_>, links: &[Link], left: usize| {
            if left != END
                && let Some(right) = links.get(links[left].next)
                && let Some((rank, merged)) = self.pairs.get((links[left].token, right.token))
            {
                queue.push(Reverse((rank, left, links[left].token, right.token, merged)));
            }
        };
        for left in 0..len {
            push(&mut queue, &links, left);
        }
        while let Some(Reverse((_, left, left_token, right_token, merged))) = queue.pop() {
            let next = links[left].next;
            let is_current = links[left].is_there
                && links[left].token == left_token
                && links.get(next).is_some_and(|right| right.token == right_token);
            if !is_current {
                continue;
            }
            links[left].token = merged;
            let after = links[next].next;
            links[left].next = after;
            links[next].is_there = false;
            if let Some(after) = links.get_mut(after) {
                after.previous = left;
            }
            push(&mut queue, &links, left);
            push(&mut queue, &links, links[left].previous);
        }
        out.extend(links.iter().filter(|link| link.is_there).map(|link| link.token));
    }
}

impl Memory {
    fn clear(&mut self) {
        self.words.clear();
        self.places.clear();
        self.tokens.clear();
    }
}

/// Returns the added tokens, if they are few and all are found as plain text.
fn special(json: &Value) -> Option<Vec<(String, u32)>> {
    const MOST: usize = 16;
    let empty = Vec::new();
    let list = match json.get("added_tokens") {
        None | Some(Value::Null) => &empty,
        Some(list) => list.as_array()?,
    };
    let flag = |token: &Value, key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
    let is_plain = |token: &Value| ["single_word", "lstrip", "rstrip"].iter().all(|key| !flag(token, key));
    // The library searches normalized text for some tokens in a second pass. With one kind only, one search is enough.
    let is_one_kind = list.windows(2).all(|two| flag(&two[0], "normalized") == flag(&two[1], "normalized"));
    if list.len() > MOST || !is_one_kind || !list.iter().all(is_plain) {
        return None;
    }
    list.iter()
        .map(|token| {
            let content = token.get("content")?.as_str().filter(|content| !content.is_empty())?;
            Some((content.to_owned(), u32::try_from(token.get("id")?.as_u64()?).ok()?))
        })
        .collect()
}

/// Finds added tokens in a text from left to right. At each place the longest token wins.
struct Finder<'a> {
    text: &'a str,
    /// Each token with its next occurrence.
    tokens: Vec<(&'a str, u32, Option<usize>)>,
}

impl<'a> Finder<'a> {
    fn new(special: &'a [(String, u32)], text: &'a str) -> Finder<'a> {
        let tokens =
            special.iter().map(|(content, token)| (content.as_str(), *token, text.find(content.as_str())));
        Finder { text, tokens: tokens.collect() }
    }

    /// Returns the place, the length and the token of the next occurrence at or after `from`.
    fn next(&mut self, from: usize) -> Option<(usize, usize, u32)> {
        for (content, _, place) in &mut self.tokens {
            if place.is_some_and(|place| place < from) {
                *place = self.text[from..].find(*content).map(|place| from + place);
            }
        }
        let found =
            self.tokens.iter().filter_map(|&(content, token, place)| Some((place?, content.len(), token)));
        found.min_by_key(|&(place, len, _)| (place, Reverse(len)))
    }
}

/// The rank and the merged token of each pair. It uses open addressing.
#[derive(Debug)]
struct Pairs {
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    pair: (u32, u32),
    rank: u32,
    merged: u32,
}

impl Pairs {
    fn new(count: usize) -> Pairs {
        let empty = Slot { pair: (0, 0), rank: NONE, merged: 0 };
        Pairs { slots: vec![empty; (count * 2 + 2).next_power_of_two()] }
    }

    /// Inserts a pair. A repeated pair keeps its last rank.
    fn insert(&mut self, pair: (u32, u32), (rank, merged): (u32, u32)) {
        let slot = self.slot(pair);
        self.slots[slot] = Slot { pair, rank, merged };
    }

    #[inline]
    fn get(&self, pair: (u32, u32)) -> Option<(u32, u32)> {
        let slot = self.slots[self.slot(pair)];
        (slot.rank != NONE).then_some((slot.rank, slot.merged))
    }

    /// Returns the slot that holds the pair, or the free slot where it belongs.
    #[inline]
    fn slot(&self, pair: (u32, u32)) -> usize {
        let key = u64::from(pair.0) << 32 | u64::from(pair.1);
        let mask = self.slots.len() - 1;
        let mut slot = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize & mask;
        while self.slots[slot].rank != NONE && self.slots[slot].pair != pair {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Tokenizer as Library;

    const TEXT: &str =
        "The run goes on, the run goes on; it's über alles 日本 naïve 1234 12 \n\n  the end\t. thethethe";

    /// Returns both encoders of a trained tokenizer with more added tokens, one of them a prefix of another.
    fn both() -> (Merges, Library) {
        let words = super::super::WordCounts::from_texts(&[TEXT, TEXT, "ababababab abab aaaaaaaa aaaa bbab"]);
        let tokenizer = Tokenizer::train_bpe(&words, 300, &mut |_, _| true).expect("a tokenizer");
        let mut library: Library = tokenizer.json().parse().expect("the library's");
        library.add_special_tokens(
            &["<|end", "<|", "日本"].map(|text| tokenizers::AddedToken::from(text, true)),
        );
        let json = library.to_string(false).expect("json");
        (Merges::from_json(&json).expect("plain"), json.parse().expect("again"))
    }

    fn check((merges, library): &(Merges, Library), text: &str) {
        let theirs = library.encode_fast(text, false).expect("tokens");
        assert_eq!(merges.encode(text), theirs.get_ids(), "{text:?}");
    }

    #[test]
    fn the_library_s_tokens() {
        let both = both();
        for text in [
            TEXT.to_owned(),
            "<|endoftext|>".to_owned(),
            "a<|end<|endoftext|><||<|endoftext|>|<|endoftext".to_owned(),
            "x日本本日".to_owned(),
            "ab".repeat(3_000) + " " + &"theab".repeat(2_000),
            "=".repeat(200) + &"é".repeat(100),
        ] {
            check(&both, &text);
            // The second time, the tokens come from the cache.
            check(&both, &text);
        }
    }

    #[test]
    fn words_of_any_length_are_merged_alike() {
        let (merges, _) = both();
        let (mut short, mut long) = (Vec::new(), Vec::new());
        for len in 0..300 {
            let word: Vec<u8> = (0..len).map(|index| b"abth e"[(index * index * 7 + len) % 6]).collect();
            merges.table.merge(&word, &mut Vec::new(), &mut short);
            merges.table.merge_long(&word, &mut long);
        }
        assert_eq!(short, long);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn of_any_text(text in r"([abthe ]{0,60}|<\|endoftext\|>|<\||<\|end|\PC|\s|'s|日本){0,12}") {
            thread_local!(static BOTH: (Merges, Library) = both());
            BOTH.with(|both| check(both, &text));
        }
    }

    #[test]
    fn what_it_does_not_do_it_leaves_to_the_library() {
        let words = super::super::WordCounts::from_texts(&[TEXT, TEXT]);
        let tokenizer = Tokenizer::train_bpe(&words, 270, &mut |_, _| true).expect("a tokenizer");
        let json: Value = serde_json::from_str(tokenizer.json()).expect("json");
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut json = json.clone();
            change(&mut json);
            Merges::from_json(&json.to_string())
        };
        assert!(changed(&|_| {}).is_some());
        let changes: [&dyn Fn(&mut Value); 9] = [
            &|json| json["normalizer"] = serde_json::json!({"type": "NFC"}),
            &|json| json["pre_tokenizer"]["add_prefix_space"] = true.into(),
            &|json| json["pre_tokenizer"]["use_regex"] = false.into(),
            &|json| json["model"]["ignore_merges"] = true.into(),
            &|json| json["model"]["dropout"] = 0.1.into(),
            &|json| json["model"]["end_of_word_suffix"] = "</w>".into(),
            &|json| json["added_tokens"][0]["lstrip"] = true.into(),
            &|json| json["model"]["vocab"]["Ġ"] = json["model"]["vocab"]["a"].clone(),
            &|json| json["truncation"] = serde_json::json!({"max_length": 5}),
        ];
        for (index, change) in changes.iter().enumerate() {
            assert!(changed(change).is_none(), "change {index}");
        }
    }
}
