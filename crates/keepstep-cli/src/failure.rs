//! Why a command ends early: a message for people and an exit status.

use crate::hints;
use keepstep::settings::UnsetVariable;
use keepstep_lm::config::ConfigError;
use keepstep_lm::trainer::TrainError;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

/// The exit statuses of commands that did not fail.
pub(crate) mod status {
    /// Done.
    pub(crate) const DONE: u8 = 0;
    /// `diff` found a difference.
    pub(crate) const DIFFERENT: u8 = 1;
    /// The run is complete, and its copy in the remote is not.
    pub(crate) const NOT_PUSHED: u8 = 1;
    /// Stopped early; the same command continues. EX_TEMPFAIL of sysexits.h.
    pub(crate) const RESUMABLE: u8 = 75;
    /// Stopped by Ctrl-C where the signal cannot be raised again.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// An error that ends a command, already in words.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: u8, message: String) -> Failure {
        Failure { status, message }
    }

    /// An error and its chain of causes, without repetition.
    pub(crate) fn of(status: u8, error: &dyn Error) -> Failure {
        Failure::about(status, "", error)
    }

    /// An error and its chain of causes, after the path or key that they concern.
    pub(crate) fn about(status: u8, place: &str, error: &dyn Error) -> Failure {
        let mut message = place.to_owned();
        let mut cause = Some(error);
        while let Some(error) = cause {
            append(&mut message, &error.to_string());
            cause = error.source();
        }
        Failure { status, message }
    }

    /// A file or a folder that cannot be read or written.
    pub(crate) fn at(path: &Path, error: &io::Error) -> Failure {
        Failure::new(1, format!("{}: {error}", path.display()))
    }

    /// Appends a hint.
    pub(crate) fn with(mut self, sentence: &str) -> Failure {
        self.message.push_str("; ");
        self.message.push_str(sentence);
        self
    }

    pub(crate) fn status(&self) -> u8 {
        self.status
    }
}

/// Appends a cause without repetition. Some libraries repeat their cause, and a cause often begins with the path that the
/// message just named.
fn append(message: &mut String, text: &str) {
    if message.is_empty() || message.contains(text) {
        if message.is_empty() {
            message.push_str(text);
        }
        return;
    }
    let start = message.rfind(": ").map_or(0, |at| at + 2);
    let last = &message[start..];
    if text.strip_prefix(last).is_some_and(|rest| rest.starts_with([':', '/'])) {
        message.truncate(start);
        message.push_str(text);
        return;
    }
    let rest = text.split_once(": ").filter(|(name, _)| {
        message.starts_with(&format!("{name}: ")) || message.contains(&format!(" {name}: "))
    });
    message.push_str(": ");
    message.push_str(rest.map_or(text, |(_, rest)| rest));
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<&TrainError> for Failure {
    fn from(error: &TrainError) -> Failure {
        let failure = Failure::of(if error.is_usage() { 2 } else { 1 }, error);
        match error.unset_variable() {
            Some(unset) => failure.with(&hints::unset_variable(unset)),
            None => failure,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        match &error {
            ConfigError::Variable(unset) => Failure::from(unset),
            _ => Failure::of(2, &error),
        }
    }
}

impl From<&UnsetVariable> for Failure {
    fn from(error: &UnsetVariable) -> Failure {
        Failure::of(2, error).with(&hints::unset_variable(error))
    }
}

impl From<keepstep_pt::ReadError> for Failure {
    fn from(error: keepstep_pt::ReadError) -> Failure {
        Failure::of(1, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::append;

    #[test]
    fn each_name_appears_once() {
        let joined = |parts: &[&str]| {
            let mut message = String::new();
            parts.iter().for_each(|part| append(&mut message, part));
            message
        };
        for (parts, whole) in [
            (&["a.pt", "a.pt: it is damaged"][..], "a.pt: it is damaged"),
            (&["hub", "hub/config.json: it is not JSON"], "hub/config.json: it is not JSON"),
            (&["a.pt: it cannot be used", "a.pt: it is damaged"], "a.pt: it cannot be used: it is damaged"),
            (&["`init_from`: hub", "hub/x: no"], "`init_from`: hub/x: no"),
            (&["a: b", "b"], "a: b"),
            (&["a", "b: c"], "a: b: c"),
        ] {
            assert_eq!(joined(parts), whole);
        }
    }
}
