//! GPT-2's alphabet of bytes.

/// Returns the character that stands for each byte: the byte's own character if it is printable, otherwise the next
/// free one from U+0100 on.
pub(super) fn byte_alphabet() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    (0..256)
        .map(|byte| {
            let code = if printable(byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).map(String::from).unwrap_or_default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn it_is_the_library_s_alphabet() {
        let ours: std::collections::BTreeSet<char> =
            byte_alphabet().iter().flat_map(|text| text.chars()).collect();
        let theirs: std::collections::BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
        assert_eq!(ours, theirs);
        assert_eq!(byte_alphabet()[b' ' as usize], "Ġ");
    }
}
