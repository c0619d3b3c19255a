//! Keys of objects: today's name, and the first digits of the content's hash.

use keepstep::name::{BEST_MODEL, COMPANION_FILES, Name};
use keepstep::run::STATUS_FILE;

/// Digits of the hash in a key.
pub(crate) const DIGITS: usize = 12;

/// The prefix of the keys of a journal's segments.
const JOURNAL: &str = "journal-";

/// The folder of checkpoints that a rewind has left behind.
pub(crate) const SUPERSEDED: &str = "superseded/";

/// The key of a file: its name with the hash before the extension, so that a plain download opens. A key that was deleted
/// before is not used again, as a late request could still delete it: a number is added.
pub(crate) fn of(name: &str, sha256: &str, is_retired: impl Fn(&str) -> bool) -> String {
    let digits = &sha256[..DIGITS.min(sha256.len())];
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "bin"));
    let first = format!("{stem}-{digits}.{extension}");
    if !is_retired(&first) {
        return first;
    }
    (2..)
        .map(|again| format!("{stem}-{digits}-{again}.{extension}"))
        .find(|key| !is_retired(key))
        .unwrap_or(first)
}

/// The key of a journal's segment that begins at `offset`.
pub(crate) fn of_segment(offset: u64, sha256: &str, is_retired: impl Fn(&str) -> bool) -> String {
    of(&format!("{JOURNAL}{offset:015}.jsonl"), sha256, is_retired)
}

/// What a key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// Today's name.
    pub(crate) name: String,
    /// The first digits of the hash.
    pub(crate) digits: String,
}

/// Takes a key apart. None for objects that are not ours.
pub(crate) fn parse(key: &str) -> Option<Parsed> {
    let (stem, extension) = key.rsplit_once('.')?;
    let is_hash = |text: &str| {
        text.len() == DIGITS
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let (mut rest, mut digits) = stem.rsplit_once('-')?;
    if !is_hash(digits) {
        let number = digits.parse::<u64>().ok()?;
        (rest, digits) = rest.rsplit_once('-')?;
        if number < 2 || !is_hash(digits) {
            return None;
        }
    }
    let name = format!("{rest}.{extension}");
    let plain = name.strip_prefix(SUPERSEDED).unwrap_or(&name);
    let is_ours = plain == BEST_MODEL
        || Name::parse(plain).is_some()
        || offset(&name).is_some()
        || COMPANION_FILES.contains(&&*name)
        || name == STATUS_FILE;
    is_ours.then(|| Parsed { name, digits: digits.to_owned() })
}

/// The offset in the name of a journal's segment.
pub(crate) fn offset(name: &str) -> Option<u64> {
    name.strip_prefix(JOURNAL)?.strip_suffix(".jsonl")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        let sha = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for name in [
            "checkpoint_epoch1_step2_global2.pt",
            "best_model.pt",
            "tokenizer.json",
            "environment.json",
            "status.json",
            "superseded/best_model.pt",
        ] {
            let key = of(name, sha, |_| false);
            assert!(key.contains("-0123456789ab."), "{key}");
            assert_eq!(parse(&key).map(|parsed| parsed.name).as_deref(), Some(name));
            let again = of(name, sha, |used| used == key);
            assert_ne!(again, key);
            assert_eq!(parse(&again).map(|parsed| parsed.name).as_deref(), Some(name));
        }
        let segment = of_segment(42, sha, |_| false);
        assert_eq!(parse(&segment).and_then(|parsed| offset(&parsed.name)), Some(42));
        for other in
            ["run.json", "best_model.pt", "notes-0123456789ab.txt", "best_model-0123456789aX.pt", "x"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
