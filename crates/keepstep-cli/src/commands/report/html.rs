//! Formats text and numbers for the page.

use crate::format;

/// Escapes text from outside the page. Control characters become visible.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            '\0'..='\u{1f}' => out.push(char::from_u32(0x2400 + character as u32).unwrap_or('\u{fffd}')),
            '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            _ => out.push(character),
        }
    }
    out
}

/// `1,076`
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number on an axis: `250`, `12.5k`, `3M`, `5e-4`.
pub(super) fn short(value: f64) -> String {
    let plain = |value: f64| {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1e-2 => {
            let text = format!("{value:.2e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        size if size < 1e4 => plain(value),
        size if size < 1e6 => format!("{}k", plain(value / 1e3)),
        size if size < 1e9 => format!("{}M", plain(value / 1e6)),
        _ => format!("{}G", plain(value / 1e9)),
    }
}

/// A large number with about three digits: `87.2k`.
pub(super) fn rough(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{:.1}k", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", number as f64 / 1e6),
        _ => format!("{:.1}G", number as f64 / 1e9),
    }
}

pub(super) fn loss(loss: Option<f64>) -> String {
    loss.map_or_else(|| "–".to_owned(), format::loss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_control_characters_are_escaped() {
        assert_eq!(escape("<b a=\"'\">&\u{0}\u{202e}\n"), "&lt;b a=&quot;&#39;&quot;&gt;&amp;␀\u{fffd}\n");
    }

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1076, 1234567].map(thousands), ["0", "999", "1,076", "1,234,567"]);
        assert_eq!([999, 87_168, 3_500_000_000].map(rough), ["999", "87.2k", "3.5G"]);
        let shown = [0.0, 0.0005, 0.5, 250.0, 12_500.0, 3e6, 2e9].map(short);
        assert_eq!(shown, ["0", "5e-4", "0.5", "250", "12.5k", "3M", "2G"]);
    }
}
