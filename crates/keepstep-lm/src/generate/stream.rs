//! Decodes tokens to text as they come.

use keepstep_text::tokenizer::{Tokenizer, TokenizerError};

/// Releases text once it can no longer change: a character of several bytes appears with its last token.
pub(super) struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// Text before these tokens is released. Some earlier tokens are decoded with them, because a decoder may treat the
    /// first tokens of a text differently.
    context: usize,
    out: usize,
    text: String,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> TextStream<'a> {
        TextStream { tokenizer, tokens: Vec::new(), context: 0, out: 0, text: String::new() }
    }

    /// The text that one more token adds.
    pub(super) fn push(&mut self, token: u32) -> Result<&str, TokenizerError> {
        self.tokens.push(token);
        let before = self.tokenizer.decode(&self.tokens[self.context..self.out])?;
        let now = self.tokenizer.decode(&self.tokens[self.context..])?;
        match now.strip_prefix(&before) {
            Some(new) if !new.is_empty() && !new.ends_with(char::REPLACEMENT_CHARACTER) => {
                let start = self.text.len();
                self.text.push_str(new);
                (self.context, self.out) = (self.out, self.tokens.len());
                Ok(&self.text[start..])
            }
            _ => Ok(""),
        }
    }

    /// The rest at the end, and the whole text.
    pub(super) fn finish(self) -> Result<(String, String), TokenizerError> {
        let all = self.tokenizer.decode(&self.tokens)?;
        let rest = all.strip_prefix(&self.text).unwrap_or_default().to_owned();
        Ok((rest, all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepstep_text::tokenizer::WordCounts;

    #[test]
    fn pieces_are_the_text_and_never_half_a_character() {
        let text = "the end, über alles 日本 🙂 the end the end";
        let words = WordCounts::from_texts(&[text, text]);
        let bpe = Tokenizer::train_bpe(&words, 265, &mut |_, _| true).expect("a tokenizer");
        let mut torn = text.as_bytes().to_vec();
        torn.extend([0xFF, b'a', 0xE2, 0x82]);
        for (tokenizer, tokens) in [
            (Tokenizer::bytes(), torn.iter().map(|&byte| byte.into()).collect()),
            (bpe.clone(), bpe.encode(text).expect("tokens")),
            (Tokenizer::chars(text.chars()), Tokenizer::chars(text.chars()).encode(text).expect("tokens")),
        ] {
            let mut stream = TextStream::new(&tokenizer);
            let (mut pieces, mut out) = (0, String::new());
            for &token in &tokens {
                let piece = stream.push(token).expect("text");
                assert!(!piece.ends_with(char::REPLACEMENT_CHARACTER));
                pieces += usize::from(!piece.is_empty());
                out.push_str(piece);
            }
            let (rest, all) = stream.finish().expect("text");
            out.push_str(&rest);
            assert_eq!(out, all);
            assert_eq!(all, tokenizer.decode(&tokens).expect("text"));
            assert!(pieces > 20, "{pieces}");
        }
    }
}
