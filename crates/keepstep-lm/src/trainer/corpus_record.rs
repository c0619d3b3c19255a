//! `corpus.sha256` in a run's folder: the files of its corpus in order, each with its hash.
//!
//! Checkpoints do not contain it, and no result depends on it. If the corpus changes, it shows which file did. It has
//! the format of `sha256sum`.

use keepstep_text::corpus::SourceFile;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io;
use std::path::Path;

/// The name of the list of a corpus's files in a run's folder.
const CORPUS_RECORD: &str = "corpus.sha256";

/// The largest number of files in a list. Longer lists are not written.
const MOST_FILES: usize = 100_000;

/// The number of names shown for each kind of change.
const SHOWN: usize = 3;

/// Writes the list into a run's folder, unless it exists.
pub(crate) fn write(folder: &Path, files: &[SourceFile]) -> io::Result<()> {
    if files.len() > MOST_FILES {
        return Ok(());
    }
    let text = lines(files);
    let path = folder.join(CORPUS_RECORD);
    if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    keepstep::store::write_whole(&path, text.as_bytes())
}

/// Describes the change since the list in one of the folders was written. Returns `None` if there is no list or no
/// change.
pub(crate) fn change(folders: &[&Path], files: &[SourceFile]) -> Option<String> {
    let read = |folder: &&Path| std::fs::read_to_string(folder.join(CORPUS_RECORD)).ok();
    let old = folders.iter().find_map(read)?;
    compare(&old, &lines(files))
}

fn lines(files: &[SourceFile]) -> String {
    let mut text = String::new();
    for file in files {
        let hash = keepstep::hex(file.hash());
        let _ = writeln!(text, "{hash}  {}", file.path().to_string_lossy().replace('\n', "?"));
    }
    text
}

fn compare(old: &str, new: &str) -> Option<String> {
    let entries = |text: &str| -> Vec<(String, String)> {
        let pair = |line: &str| line.split_once("  ").map(|(hash, path)| (hash.to_owned(), path.to_owned()));
        text.lines().filter_map(pair).collect()
    };
    let (old, new) = (entries(old), entries(new));
    let hashes = |list: &[(String, String)]| list.iter().map(|(hash, _)| hash.clone()).collect::<Vec<_>>();
    let (old_hashes, new_hashes) = (hashes(&old), hashes(&new));
    if old_hashes == new_hashes {
        return None;
    }
    let (mut one, mut other) = (old_hashes.clone(), new_hashes.clone());
    one.sort_unstable();
    other.sort_unstable();
    if one == other {
        let moved = new.iter().zip(&old).find(|(now, before)| now.0 != before.0);
        let (path, before) = moved.map(|(now, before)| (now.1.as_str(), before.1.as_str()))?;
        return Some(format!(
            "the files are the same, in another order: `{path}` is now where `{before}` was"
        ));
    }
    let by_path = |list: &[(String, String)]| -> BTreeMap<String, String> {
        list.iter().map(|(hash, path)| (path.clone(), hash.clone())).collect()
    };
    let (before, now) = (by_path(&old), by_path(&new));
    let known: BTreeSet<&String> = old_hashes.iter().collect();
    let there: BTreeSet<&String> = new_hashes.iter().collect();
    let changed: Vec<&String> = now
        .iter()
        .filter(|(path, hash)| before.get(*path).is_some_and(|old| old != *hash))
        .map(|(path, _)| path)
        .collect();
    let gone: Vec<&String> = before
        .iter()
        .filter(|(path, hash)| !now.contains_key(*path) && !there.contains(hash))
        .map(|(path, _)| path)
        .collect();
    let added: Vec<&String> = now
        .iter()
        .filter(|(path, hash)| !before.contains_key(*path) && !known.contains(hash))
        .map(|(path, _)| path)
        .collect();
    let parts = [(changed, "changed"), (gone, "missing"), (added, "new")];
    let parts: Vec<String> =
        parts.iter().filter(|(paths, _)| !paths.is_empty()).map(|(paths, what)| named(paths, what)).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn named(paths: &[&String], what: &str) -> String {
    let shown: Vec<String> = paths.iter().take(SHOWN).map(|path| format!("`{path}`")).collect();
    let more = match paths.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{what}: {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn each_kind_of_change_is_named() {
        let list = |entries: &[(&str, &str)]| -> String {
            entries.iter().map(|(hash, path)| format!("{hash}  {path}\n")).collect()
        };
        let old = list(&[("aa", "a.txt"), ("bb", "b c.txt"), ("cc", "c.txt")]);
        let told = |new: &[(&str, &str)]| compare(&old, &list(new)).unwrap_or_default();
        assert_eq!(told(&[("aa", "a.txt"), ("bb", "b c.txt"), ("cc", "c.txt")]), "");
        // Another location of the folder is not a change.
        assert_eq!(told(&[("aa", "x/a.txt"), ("bb", "x/b c.txt"), ("cc", "x/c.txt")]), "");
        assert_eq!(told(&[("aa", "a.txt"), ("b2", "b c.txt"), ("cc", "c.txt")]), "changed: `b c.txt`");
        assert_eq!(
            told(&[("aa", "a.txt"), ("cc", "c.txt"), ("dd", "d.txt")]),
            "missing: `b c.txt`; new: `d.txt`"
        );
        let order = told(&[("bb", "b c.txt"), ("aa", "a.txt"), ("cc", "c.txt")]);
        assert!(
            order.contains("another order") && order.contains("`b c.txt` is now where `a.txt` was"),
            "{order}"
        );
    }
}
