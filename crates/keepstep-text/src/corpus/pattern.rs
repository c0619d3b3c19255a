//! Path patterns: `*`, `?` and `[…]` within a name, and `**` for any number of folders.
//!
//! A wildcard never matches the leading dot of a hidden name; a literal name does. `[[]`, `[]]`, `[*]`, `[?]` and `[$]`
//! stand for characters that otherwise have a meaning.

use std::ffi::OsStr;
use std::path::{Component as PathComponent, Path, PathBuf};

/// A parsed pattern: a folder, and the components to match below it.
#[derive(Debug)]
pub(super) struct Pattern {
    /// The leading folders without wildcards.
    pub(super) folder: PathBuf,
    pub(super) components: Vec<Component>,
}

/// What one name of a path must match.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Component {
    /// Exactly this name.
    Name(String),
    /// Any name that matches this sequence of tokens.
    Wildcard(Vec<Token>),
    /// Any number of folders, including none.
    AnyFolders,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token {
    Character(char),
    AnyCharacter,
    AnyText,
    /// A character that one of the ranges contains, or if negated, none of them.
    Class {
        ranges: Vec<(char, char)>,
        is_negated: bool,
    },
}

/// Reports whether a path contains wildcard characters.
pub(super) fn has_wildcard(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

impl Pattern {
    /// Parses a pattern. The error states what is wrong with it.
    pub(super) fn new(text: &str) -> Result<Pattern, &'static str> {
        if text.ends_with('/') || text.ends_with("/**") || text == "**" {
            return Err("it matches folders only; end it with a file pattern, as in corpus/**/*.txt");
        }
        let is_fixed =
            |part: &PathComponent<'_>| part.as_os_str().to_str().is_some_and(|part| !has_wildcard(part));
        let path = Path::new(text);
        let folder: PathBuf = path.components().take_while(is_fixed).collect();
        let names = text.split('/').filter(|name| !name.is_empty());
        let components = names.skip_while(|name| !has_wildcard(name)).map(Component::new);
        Ok(Pattern { folder, components: components.collect::<Result<_, _>>()? })
    }
}

impl Component {
    fn new(text: &str) -> Result<Component, &'static str> {
        if !has_wildcard(text) {
            return Ok(Component::Name(text.to_owned()));
        }
        if text == "**" {
            return Ok(Component::AnyFolders);
        }
        let (mut tokens, mut rest) = (Vec::new(), text);
        while let Some(first) = rest.chars().next() {
            let (token, len) = match first {
                '*' if rest.starts_with("**") => {
                    return Err("`**` must be a whole part of the path, as in a/**/b");
                }
                '*' => (Token::AnyText, 1),
                '?' => (Token::AnyCharacter, 1),
                '[' => class(rest).ok_or("a `[` has no matching `]`; write [[] for a bracket in a name")?,
                character => (Token::Character(character), character.len_utf8()),
            };
            tokens.push(token);
            rest = &rest[len..];
        }
        Ok(Component::Wildcard(tokens))
    }
}

/// Parses the character class at the beginning of a text, and returns it with its length.
fn class(text: &str) -> Option<(Token, usize)> {
    let is_negated = text.starts_with("[!");
    let start = if is_negated { 2 } else { 1 };
    // A bracket in first position is a member of the class.
    let first = text[start..].chars().next()?.len_utf8();
    let end = start + first + text[start + first..].find(']')?;
    let members: Vec<char> = text[start..end].chars().collect();
    let (mut ranges, mut at) = (Vec::new(), 0);
    while let Some(&from) = members.get(at) {
        match members[at..] {
            [_, '-', to, ..] => {
                ranges.push((from, to));
                at += 3;
            }
            _ => {
                ranges.push((from, from));
                at += 1;
            }
        }
    }
    Some((Token::Class { ranges, is_negated }, end + 1))
}

/// Reports whether the tokens match a whole name. In a name that is not UTF-8, each invalid sequence counts as one
/// character.
pub(super) fn matches(tokens: &[Token], name: &OsStr) -> bool {
    let name: Vec<char> = name.to_string_lossy().chars().collect();
    let (mut token, mut at) = (0, 0);
    // The position of the last `*`, and the end of the text that it stands for so far.
    let mut any: Option<(usize, usize)> = None;
    loop {
        match (tokens.get(token), name.get(at)) {
            (None, None) => return true,
            (Some(Token::AnyText), _) => {
                any = Some((token, at));
                token += 1;
            }
            (Some(one), Some(&character)) if one.matches(character) => {
                token += 1;
                at += 1;
            }
            _ => match any {
                Some((star, tried)) if tried < name.len() => {
                    any = Some((star, tried + 1));
                    (token, at) = (star + 1, tried + 1);
                }
                _ => return false,
            },
        }
    }
}

impl Token {
    fn matches(&self, character: char) -> bool {
        match self {
            Token::Character(expected) => *expected == character,
            Token::AnyCharacter | Token::AnyText => true,
            Token::Class { ranges, is_negated } => {
                ranges.iter().any(|&(from, to)| (from..=to).contains(&character)) != *is_negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pattern: &str, name: &str) {
        let ours = match Component::new(pattern) {
            Ok(Component::Wildcard(tokens)) => Some(matches(&tokens, OsStr::new(name))),
            Ok(Component::Name(text)) => Some(text == name),
            Ok(Component::AnyFolders) => return,
            Err(_) => None,
        };
        let theirs = glob::Pattern::new(pattern).ok().map(|theirs| theirs.matches(name));
        assert_eq!(ours, theirs, "{pattern:?} {name:?}");
    }

    #[test]
    fn it_matches_what_the_glob_crate_matches() {
        for pattern in [
            "*.txt", "a?c", "[a-c]*", "[!a-c]*", "[]]", "[[]x]", "[!]]*", "[a", "[]", "[!]", "a**", "***",
            "[z-a]", "[-a]", "[^a]", "é?", "{a,b}", "\\*",
        ] {
            for name in ["a.txt", "abc", "aéc", "b", "]", "[x]", "[", "é1", "^", "-", "a", "{a,b}", "\\x", ""]
            {
                check(pattern, name);
            }
        }
    }

    proptest! {
        #[test]
        fn of_any_pattern(pattern in r"[a-c*?\[\]!é-]{1,9}", name in r"[a-c\[\]!é-]{0,6}") {
            check(&pattern, &name);
        }
    }
}
