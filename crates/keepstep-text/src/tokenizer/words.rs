//! Splits a text into GPT-2's words. A byte-level tokenizer merges only within a word.
//!
//! The words are the matches of the pattern `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|
//! ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, found without a regular expression, in one pass over the characters.

use std::sync::LazyLock;

/// The classes of characters that the pattern distinguishes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Space,
    Letter,
    Number,
}

/// The class of every character, from the tables of the library's regular expressions.
static CLASSES: LazyLock<Box<[Class]>> = LazyLock::new(|| {
    let mut classes = vec![Class::Other; char::MAX as usize + 1].into_boxed_slice();
    for (pattern, class) in [(r"\s", Class::Space), (r"\p{L}", Class::Letter), (r"\p{N}", Class::Number)] {
        let parsed = regex_syntax::parse(pattern).map(regex_syntax::hir::Hir::into_kind);
        if let Ok(regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(ranges))) = parsed {
            for range in ranges.ranges() {
                classes[range.start() as usize..=range.end() as usize].fill(class);
            }
        }
    }
    classes
});

/// Splits a text into words. Together they are the whole text.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    Words { rest: text, classes: &CLASSES }
}

struct Words<'a> {
    rest: &'a str,
    classes: &'static [Class],
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        let first = self.rest.chars().next()?;
        let len = self.len(first);
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        Some(word)
    }
}

impl Words<'_> {
    #[inline]
    fn class(&self, character: char) -> Class {
        self.classes[character as usize]
    }

    /// Returns the length of the word that begins with `first`.
    #[inline]
    fn len(&self, first: char) -> usize {
        if first == '\''
            && let Some(len) = contraction(&self.rest.as_bytes()[1..])
        {
            return 1 + len;
        }
        match self.class(first) {
            Class::Space => {
                let second = self.rest[first.len_utf8()..].chars().next();
                match second.map(|second| (second, self.class(second))) {
                    Some((_, Class::Space)) => self.spaces(),
                    Some((second, class)) if first == ' ' => self.run(1 + second.len_utf8(), class),
                    _ => first.len_utf8(),
                }
            }
            class => self.run(first.len_utf8(), class),
        }
    }

    /// Returns the end of the run of a class that reaches at least to `from`.
    #[inline]
    fn run(&self, from: usize, class: Class) -> usize {
        let rest = &self.rest[from..];
        from + rest.find(|character| self.class(character) != class).unwrap_or(rest.len())
    }

    /// Returns the length of a run of two or more spaces without the last one, which belongs to the next word. At the
    /// end of the text, the whole run counts.
    fn spaces(&self) -> usize {
        let end = self.run(0, Class::Space);
        if end == self.rest.len() {
            return end;
        }
        let last = self.rest[..end].chars().next_back().map_or(0, char::len_utf8);
        end - last
    }
}

/// Returns the length of the rest of an English contraction after the apostrophe.
#[inline]
fn contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [b's' | b't' | b'm' | b'd', ..] => Some(1),
        [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn check(text: &str) {
        let mut split = PreTokenizedString::from(text);
        ByteLevel::new(false, false, true).pre_tokenize(&mut split).expect("words");
        let theirs: Vec<&str> = split
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), _)| &text[start..end])
            .collect();
        let ours: Vec<&str> = words(text).collect();
        assert_eq!(ours, theirs, "{text:?}");
    }

    #[test]
    fn the_library_s_words() {
        for text in [
            "",
            " ",
            "  ",
            "a",
            " a",
            "  a",
            "\n a",
            "a \n",
            " \n\n x",
            "\t\tx",
            "it's, we'll 're 'tis !'s ''s 'S",
            "x1 2y ٣ ½ Ⅷ 日本 über  naïve",
            "a\u{a0}b \u{3000} c\u{2028}\u{200b}d e\u{301}f",
            "' '' 'l 'll 'r",
            "fn main() {\n    let x = 1;\n}\n",
        ] {
            check(text);
        }
    }

    proptest! {
        #[test]
        fn of_any_text(text in r"[a-c 1\n\t'\.srtevmld\u{a0}é日½\u{301}\u{200b}\u{1F600}]{0,40}|\PC{0,40}") {
            check(&text);
        }
    }
}
