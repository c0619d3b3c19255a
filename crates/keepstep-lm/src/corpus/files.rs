//! Which files a corpus consists of, in which order.

use super::CorpusError;
use super::packages;
use crate::config::{DataConfig, expand};
use memmap2::Mmap;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

/// One file, mapped into memory, known to be UTF-8.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    content: Mmap,
    hash: [u8; 32],
}

impl SourceFile {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in it.
    pub fn text(&self) -> &str {
        // It was checked when it was opened; a file that is changed under our feet loses its text, not our memory's
        // safety, and its tokens then no longer match its fingerprint.
        std::str::from_utf8(&self.content).unwrap_or_default()
    }

    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// None for an empty file.
    fn open(path: PathBuf) -> Result<Option<SourceFile>, CorpusError> {
        let unreadable = |source| CorpusError::Unreadable { path: path.clone(), source };
        let file = File::open(&path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.len() == 0 {
            return Ok(None);
        }
        // SAFETY: the mapping is only read. Another process that changes the file meanwhile changes what is read, as it
        // would with any other way of reading a file twice.
        let content = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        if let Err(error) = std::str::from_utf8(&content) {
            return Err(CorpusError::NotUtf8 { path, at: error.valid_up_to() });
        }
        let hash = Sha256::digest(&content).into();
        Ok(Some(SourceFile { path, content, hash }))
    }
}

/// The files of a config: those of each pattern in turn, bytewise by their path below the pattern's fixed prefix, then
/// those of the cargo packages; each once. Empty files are left out, unless they were named themselves.
///
/// # Errors
/// A pattern that names nothing, or a file that cannot be used.
pub fn collect(data: &DataConfig) -> Result<Vec<SourceFile>, CorpusError> {
    let mut paths: Vec<(PathBuf, bool)> = Vec::new();
    for pattern in &data.paths {
        matches(pattern, &mut paths)?;
    }
    paths.extend(packages::sources(&data.cargo_packages)?.into_iter().map(|path| (path, false)));
    let mut seen = BTreeSet::new();
    paths.retain(|(path, _)| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    let open = |(path, named): (PathBuf, bool)| match SourceFile::open(path.clone())? {
        None if named => Err(CorpusError::Empty { path }),
        file => Ok(file),
    };
    let files: Vec<Result<Option<SourceFile>, CorpusError>> = paths.into_par_iter().map(open).collect();
    // The first mistake in the order of the files, however many threads looked.
    files.into_iter().filter_map(Result::transpose).collect()
}

/// Appends the files of a pattern, each with whether it was named itself.
fn matches(pattern: &str, out: &mut Vec<(PathBuf, bool)>) -> Result<(), CorpusError> {
    let expanded = expand(pattern)?;
    let missing = || CorpusError::Missing { pattern: pattern.to_owned() };
    let path = Path::new(&expanded);
    if path.exists() || !expanded.contains(['*', '?', '[']) {
        if path.is_dir() {
            return Err(CorpusError::Folder { pattern: pattern.trim_end_matches('/').to_owned() });
        }
        if !path.exists() {
            return Err(missing());
        }
        out.push((path.to_path_buf(), true));
        return Ok(());
    }
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let wrong = |error: glob::PatternError| CorpusError::Pattern {
        pattern: pattern.to_owned(),
        message: error.to_string(),
    };
    let prefix = fixed_prefix(path);
    let mut found = Vec::new();
    for entry in glob::glob_with(&expanded, options).map_err(wrong)? {
        let path = entry.map_err(|error| CorpusError::Unreadable {
            path: error.path().to_path_buf(),
            source: error.into(),
        })?;
        if path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(missing());
    }
    let below =
        |path: &PathBuf| path.strip_prefix(&prefix).unwrap_or(path).as_os_str().as_encoded_bytes().to_vec();
    found.sort_by_cached_key(below);
    out.extend(found.into_iter().map(|path| (path, false)));
    Ok(())
}

/// The leading folders of a pattern that hold no wildcard.
fn fixed_prefix(pattern: &Path) -> PathBuf {
    let fixed = |part: &Component<'_>| {
        !part.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
    };
    pattern.components().take_while(fixed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(folder: &Path, patterns: &[&str]) -> Result<Vec<String>, CorpusError> {
        let paths = patterns.iter().map(|pattern| folder.join(pattern).display().to_string()).collect();
        let files = collect(&DataConfig { paths, ..DataConfig::default() })?;
        let name = |file: &SourceFile| file.path().strip_prefix(folder).expect("below").display().to_string();
        Ok(files.iter().map(name).collect())
    }

    #[test]
    fn order_is_that_of_the_patterns_then_of_the_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        for name in ["b/z.txt", "b/a.txt", "a.txt", "B.txt", "b.txt", "b/.hidden.txt", "b/deep/er/x.txt"] {
            fs::create_dir_all(folder.join(name).parent().expect("a parent")).expect("a folder");
            fs::write(folder.join(name), name).expect("a file");
        }
        fs::write(folder.join("empty.txt"), "").expect("a file");
        let found = names(folder, &["**/*.txt"]).expect("files");
        assert_eq!(found, ["B.txt", "a.txt", "b.txt", "b/a.txt", "b/deep/er/x.txt", "b/z.txt"]);
        let found = names(folder, &["b/*.txt", "b.txt", "*.txt"]).expect("files");
        assert_eq!(found, ["b/a.txt", "b/z.txt", "b.txt", "B.txt", "a.txt"]);
        for (pattern, expected) in
            [("*.md", "*.md"), ("x.txt", "x.txt"), ("b", "folder"), ("empty.txt", "empty")]
        {
            let error = names(folder, &[pattern]).expect_err(pattern).to_string();
            assert!(error.contains(expected), "{pattern}: {error}");
        }
    }
}
