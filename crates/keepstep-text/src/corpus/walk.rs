//! The files that a pattern matches.
//!
//! A folder is listed only where a wildcard stands for the names in it. Whatever could hold files of the corpus and
//! cannot be looked at is a failure: a link to nothing, a folder that may not be entered. Links are followed. A circle of
//! links ends at a folder that is its own ancestor, where nothing new is looked for in it. A folder that is reached in two
//! other ways is looked at twice.

use super::pattern::{Component, Pattern, Token, matches};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a walk reports.
pub(super) trait Visitor {
    /// Why a walk ends before its time.
    type Error;

    /// A regular file that the pattern matches.
    fn file(&mut self, path: PathBuf);

    /// A path that cannot be looked at, though it may hold files of the pattern.
    ///
    /// # Errors
    /// The walk ends.
    fn failure(&mut self, path: &Path, source: io::Error) -> Result<(), Self::Error>;

    /// Is called now and then.
    ///
    /// # Errors
    /// The walk ends.
    fn tick(&mut self) -> Result<(), Self::Error>;
}

/// Places in the list of a pattern's components: which of them the names in a folder are compared with.
type States = BTreeSet<usize>;

/// A folder on the way to the one that is looked at.
struct Ancestor {
    device: u64,
    inode: u64,
    states: States,
}

/// Visits the files of a pattern, in no defined order.
///
/// # Errors
/// The visitor's.
pub(super) fn walk<V: Visitor>(pattern: &Pattern, visitor: &mut V) -> Result<(), V::Error> {
    let mut walk = Walk { components: &pattern.components, visitor, ancestors: Vec::new() };
    walk.child(&pattern.folder, walk.states_at(0))
}

struct Walk<'a, V> {
    components: &'a [Component],
    visitor: &'a mut V,
    ancestors: Vec<Ancestor>,
}

impl<V: Visitor> Walk<'_, V> {
    /// The states of a folder whose names are to be compared with a component: with the next one too where this one may
    /// stand for no folder.
    fn states_at(&self, component: usize) -> States {
        let mut states = States::from([component]);
        let mut at = component;
        while self.components.get(at) == Some(&Component::AnyFolders) {
            at += 1;
            states.insert(at);
        }
        states
    }

    /// Looks at the names in a folder.
    fn folder(&mut self, path: &Path, metadata: &Metadata, states: &States) -> Result<(), V::Error> {
        let is_circle = self.ancestors.iter().any(|ancestor| {
            (ancestor.device, ancestor.inode) == (metadata.dev(), metadata.ino())
                && ancestor.states.is_superset(states)
        });
        if is_circle {
            return Ok(());
        }
        self.visitor.tick()?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        self.ancestors.push(Ancestor { device, inode, states: states.clone() });
        let done = self.names(path, states);
        self.ancestors.pop();
        done
    }

    fn names(&mut self, path: &Path, states: &States) -> Result<(), V::Error> {
        let mut is_listed = false;
        for &state in states {
            match self.components.get(state) {
                Some(Component::Name(name)) if !self.is_after_any_folders(state) => {
                    self.child(&path.join(name), self.states_at(state + 1))?;
                }
                Some(Component::Wildcard(tokens)) => {
                    is_listed = true;
                    for special in [".", ".."] {
                        if tokens.first() == Some(&Token::Character('.'))
                            && !self.is_after_any_folders(state)
                            && matches(tokens, OsStr::new(special))
                        {
                            self.child(&path.join(special), self.states_at(state + 1))?;
                        }
                    }
                }
                Some(_) => is_listed = true,
                None => {}
            }
        }
        if is_listed { self.list(path, states) } else { Ok(()) }
    }

    /// Whether a component is looked for among the names that are listed for the `**` before it.
    fn is_after_any_folders(&self, component: usize) -> bool {
        component.checked_sub(1).is_some_and(|before| self.components[before] == Component::AnyFolders)
    }

    fn list(&mut self, path: &Path, states: &States) -> Result<(), V::Error> {
        let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let entries = match fs::read_dir(here) {
            Ok(entries) => entries,
            Err(error) => return self.visitor.failure(here, error),
        };
        for (count, entry) in entries.enumerate() {
            if count % 256 == 255 {
                self.visitor.tick()?;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.visitor.failure(here, error)?;
                    break;
                }
            };
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let mut next = States::new();
            for &state in states {
                match self.components.get(state) {
                    Some(Component::AnyFolders) => next.extend(self.states_at(state)),
                    Some(Component::Wildcard(tokens)) if matches(tokens, &name) => {
                        next.extend(self.states_at(state + 1));
                    }
                    Some(Component::Name(expected))
                        if self.is_after_any_folders(state) && name == expected.as_str() =>
                    {
                        next.extend(self.states_at(state + 1));
                    }
                    _ => {}
                }
            }
            if next.is_empty() {
                continue;
            }
            // Most names are those of plain files that nothing more is asked of.
            match entry.file_type() {
                Ok(kind) if kind.is_file() => self.matched(path.join(name), &next),
                _ => self.child(&path.join(name), next)?,
            }
        }
        Ok(())
    }

    /// Takes a regular file that the last component matches.
    fn matched(&mut self, path: PathBuf, states: &States) {
        if states.contains(&self.components.len()) {
            self.visitor.file(path);
        }
    }

    /// Looks at something that may be a folder or a file of the pattern.
    fn child(&mut self, path: &Path, states: States) -> Result<(), V::Error> {
        let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match fs::metadata(here) {
            Ok(metadata) if metadata.is_dir() => self.folder(path, &metadata, &states),
            Ok(metadata) if metadata.is_file() => {
                self.matched(path.to_path_buf(), &states);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) if is_absence(&error) && is_gone(here) => Ok(()),
            Err(error) => self.visitor.failure(here, error),
        }
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether nothing has this name, not even a link.
fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| is_absence(&error))
}
