//! Finds the files that match a pattern.
//!
//! A folder is listed only if a wildcard must match its names. A path that could be or contain a file of the corpus and
//! cannot be examined is a failure: a dangling link, or a folder without permission. Links are followed. A cycle of
//! links ends at a folder that is its own ancestor, if the search there would find nothing new. A folder that is
//! reachable in two other ways is searched twice.

use super::pattern::{Component, Pattern, Token, matches};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The callbacks of a walk.
pub(super) trait Visitor {
    /// The error that ends a walk early.
    type Error;

    /// Receives a regular file that matches the pattern.
    fn file(&mut self, path: PathBuf);

    /// Receives a path that cannot be examined and may be or contain a matching file.
    ///
    /// # Errors
    /// An error ends the walk.
    fn failure(&mut self, path: &Path, source: io::Error) -> Result<(), Self::Error>;

    /// Called from time to time.
    ///
    /// # Errors
    /// An error ends the walk.
    fn tick(&mut self) -> Result<(), Self::Error>;
}

/// Indices of the pattern components that the names in a folder are compared with.
type States = BTreeSet<usize>;

/// A parent of the folder that is being searched.
struct Ancestor {
    device: u64,
    inode: u64,
    states: States,
}

/// Visits the files of a pattern, in no defined order.
///
/// # Errors
/// Returns the error of the visitor.
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
    /// Returns the states of a folder whose names are compared with a component. They include the next component if
    /// this one may stand for no folder.
    fn states_at(&self, component: usize) -> States {
        let mut states = States::from([component]);
        let mut at = component;
        while self.components.get(at) == Some(&Component::AnyFolders) {
            at += 1;
            states.insert(at);
        }
        states
    }

    /// Searches the names in a folder.
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

    /// Reports whether a component follows a `**`, whose folder listing already covers it.
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
            // Most names belong to plain files, which need no further system call.
            match entry.file_type() {
                Ok(kind) if kind.is_file() => self.matched(path.join(name), &next),
                _ => self.child(&path.join(name), next)?,
            }
        }
        Ok(())
    }

    /// Passes a regular file to the visitor if the last component matches.
    fn matched(&mut self, path: PathBuf, states: &States) {
        if states.contains(&self.components.len()) {
            self.visitor.file(path);
        }
    }

    /// Examines a path that may be a folder or a file of the pattern.
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

/// Reports whether no file, folder or link has this name.
fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| is_absence(&error))
}
