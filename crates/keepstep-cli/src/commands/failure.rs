//! What ends a command: a message for people and an exit status.

use std::error::Error;
use std::fmt;

/// A failure, already in words.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: u8, message: String) -> Failure {
        Failure { status, message }
    }

    /// The error and its chain of causes.
    pub(crate) fn of(status: u8, error: &dyn Error) -> Failure {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some libraries repeat their cause in their own words.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Failure { status, message }
    }

    pub(crate) fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<keepstep_pt::ReadError> for Failure {
    fn from(error: keepstep_pt::ReadError) -> Failure {
        Failure::of(1, &error)
    }
}
