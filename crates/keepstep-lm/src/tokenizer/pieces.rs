//! Long texts in pieces, so that memory is bounded, all processors have work, and a stop is looked at soon.

/// A piece of a text is at least this long, in bytes, unless the text ends. Part of the corpus' rule.
const PIECE: usize = 1 << 16;

/// Cuts a text after the first line that ends at or beyond `PIECE` bytes; a line of twice that length is cut after the
/// character there. Only the text decides.
pub(crate) fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > PIECE {
        let window = &rest.as_bytes()[PIECE - 1..rest.len().min(2 * PIECE)];
        let mut end = match window.iter().position(|&byte| byte == b'\n') {
            Some(at) => PIECE + at,
            None => rest.len().min(2 * PIECE),
        };
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (piece, tail) = rest.split_at(end);
        pieces.push(piece);
        rest = tail;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text() {
        for text in [
            String::new(),
            "short".to_owned(),
            "a line of some length\n".repeat(10_000),
            "x".repeat(300_000),
            "é".repeat(100_001),
        ] {
            let pieces = pieces(&text);
            assert_eq!(pieces.concat(), text);
            assert!(
                pieces.iter().rev().skip(1).all(|piece| piece.len() >= PIECE && piece.len() <= 2 * PIECE + 3)
            );
        }
        let lines = "a line of some length\n".repeat(10_000);
        assert!(pieces(&lines).iter().all(|piece| piece.ends_with('\n')));
    }
}
