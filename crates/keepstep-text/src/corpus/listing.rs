//! Lists the paths of a corpus in a defined order.

use super::pattern::{Pattern, has_wildcard};
use super::unreadable::Unreadable;
use super::walk::{Visitor, walk};
use super::{CorpusError, DataConfig, Progress, Stage, packages};
use keepstep::settings::expand;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// The number of paths between two calls of `progress`.
const PATHS: usize = 256;

/// A file of the corpus.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    /// Whether the config names the file itself. Otherwise, a pattern matched it.
    pub(super) is_named: bool,
}

/// Lists the files of each pattern in turn, sorted bytewise by their path below the pattern's fixed folders, then those
/// of the cargo packages. Each file comes once.
pub(super) fn list(
    data: &DataConfig,
    unreadable: &mut Unreadable,
    progress: &mut Progress<'_>,
) -> Result<Vec<Listed>, CorpusError> {
    let mut listed = Vec::new();
    for pattern in &data.paths {
        one_pattern(pattern, unreadable, progress, &mut listed)?;
    }
    let sources = packages::sources(&data.cargo_packages)?;
    listed.extend(sources.into_iter().map(|path| Listed { path, is_named: false }));
    let (mut seen, mut once) = (BTreeSet::new(), Vec::new());
    for file in listed {
        if seen.insert(file.path.canonicalize().unwrap_or_else(|_| file.path.clone())) {
            once.push(file);
        }
        if seen.len().is_multiple_of(PATHS) {
            tick(progress, once.len())?;
        }
    }
    Ok(once)
}

fn tick(progress: &mut Progress<'_>, num_files: usize) -> Result<(), CorpusError> {
    let go_on = progress(Stage::Listing, num_files as u64, num_files as u64);
    if go_on { Ok(()) } else { Err(CorpusError::Stopped) }
}

/// Appends the files of one pattern.
fn one_pattern(
    text: &str,
    unreadable: &mut Unreadable,
    progress: &mut Progress<'_>,
    out: &mut Vec<Listed>,
) -> Result<(), CorpusError> {
    let expanded = expand(text)?;
    let missing = || CorpusError::Missing { pattern: text.to_owned() };
    let path = Path::new(&expanded);
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            return Err(CorpusError::Folder { pattern: text.trim_end_matches('/').to_owned() });
        }
        Ok(_) => {
            out.push(Listed { path: path.to_path_buf(), is_named: true });
            return Ok(());
        }
        Err(_) if has_wildcard(&expanded) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(source) => return Err(CorpusError::Unreadable { path: path.to_path_buf(), source }),
    }
    let pattern = Pattern::new(&expanded)
        .map_err(|message| CorpusError::Pattern { pattern: text.to_owned(), message: message.to_owned() })?;
    let mut matches = Matches { found: Vec::new(), num_before: out.len(), unreadable, progress };
    walk(&pattern, &mut matches)?;
    let mut found = matches.found;
    if found.is_empty() {
        return Err(missing());
    }
    let below = |path: &PathBuf| {
        path.strip_prefix(&pattern.folder).unwrap_or(path).as_os_str().as_encoded_bytes().to_vec()
    };
    found.sort_by_cached_key(below);
    out.extend(found.into_iter().map(|path| Listed { path, is_named: false }));
    Ok(())
}

/// The files that match a pattern.
struct Matches<'a, 'b> {
    found: Vec<PathBuf>,
    /// The number of files from earlier patterns.
    num_before: usize,
    unreadable: &'a mut Unreadable,
    progress: &'a mut Progress<'b>,
}

impl Visitor for Matches<'_, '_> {
    type Error = CorpusError;

    fn file(&mut self, path: PathBuf) {
        self.found.push(path);
    }

    fn failure(&mut self, path: &Path, source: io::Error) -> Result<(), CorpusError> {
        self.unreadable.leave_out(path.to_path_buf(), source)
    }

    fn tick(&mut self) -> Result<(), CorpusError> {
        tick(self.progress, self.num_before + self.found.len())
    }
}
