//! Expansion of `~` and `${VAR:-default}` in paths.

use thiserror::Error;

/// An environment variable that is not set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` names the environment variable {variable}, which is not set")]
#[non_exhaustive]
pub struct UnsetVariable {
    /// The text with the variable.
    pub text: String,
    /// The variable.
    pub variable: String,
}

/// Expands a leading `~` and each `$VAR`, `${VAR}` and `${VAR:-default}`.
///
/// # Errors
/// A variable without a default is not set.
pub fn expand(text: &str) -> Result<String, UnsetVariable> {
    expand_with(text, |name| std::env::var(name).ok())
}

fn expand_with(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, UnsetVariable> {
    let missing = |name: &str| UnsetVariable { text: text.to_owned(), variable: name.to_owned() };
    let mut out = String::new();
    let mut rest = text;
    if rest == "~" || rest.starts_with("~/") {
        out.push_str(&variable("HOME").ok_or_else(|| missing("HOME"))?);
        rest = &rest[1..];
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, default, tail) = match after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            Some((inside, tail)) => match inside.split_once(":-") {
                Some((name, default)) => (name, Some(default), tail),
                None => (inside, None, tail),
            },
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], None, &after[end..])
            }
        };
        if name.is_empty() {
            out.push('$');
            rest = after;
            continue;
        }
        let value = variable(name).filter(|value| !value.is_empty() || default.is_none());
        out.push_str(&value.or_else(|| default.map(str::to_owned)).ok_or_else(|| missing(name))?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_and_variables() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "DATA" => Some("/data".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("~/x", "/home/me/x"),
            ("a~/x", "a~/x"),
            ("$DATA/x.txt", "/data/x.txt"),
            ("${DATA}x", "/datax"),
            ("${NONE:-/else}/x", "/else/x"),
            ("${EMPTY:-/else}/x", "/else/x"),
            ("a$/b", "a$/b"),
        ] {
            assert_eq!(expand_with(text, variable).expect("expanded"), expected);
        }
        let error = expand_with("${NONE}/x", variable).expect_err("not set").to_string();
        assert!(error.contains("NONE"), "{error}");
    }
}
