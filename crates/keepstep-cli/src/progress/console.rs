//! Prints lines on standard error, above the progress bar if there is one.

use super::json;
use crate::output::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::ffi::OsStr;
use std::io::{self, IsTerminal};

/// Prints messages while a command runs, from any thread.
#[derive(Debug, Clone)]
pub(crate) enum Console {
    /// Plain lines.
    Lines,
    /// Lines above a bar.
    Bar(ProgressBar),
    /// JSON on standard output.
    Json,
}

impl Console {
    /// Chooses a bar if standard error is a terminal that can move its cursor, and plain lines otherwise. A notebook's
    /// output claims to be a terminal but cannot move the cursor.
    pub(crate) fn new() -> Console {
        let variable = |name: &str| std::env::var_os(name);
        let is_cell = variable("JPY_PARENT_PID").is_some();
        let is_dumb = variable("TERM").is_none_or(|term| term == OsStr::new("dumb") || term.is_empty());
        if is_cell || is_dumb || !io::stderr().is_terminal() {
            return Console::Lines;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Console::Bar(bar)
    }

    /// Prints a line that stays.
    pub(crate) fn say(&self, text: &str) {
        match self {
            Console::Lines => say(text),
            Console::Bar(bar) => bar.suspend(|| say(text)),
            Console::Json => json::write(&json::note(text)),
        }
    }

    /// Announces that a signal requested a stop.
    pub(crate) fn stopping(&self, signal: &str) {
        match self {
            Console::Json => json::write(&json::stopping(signal)),
            _ => self.say(&format!(
                "{signal}: saving and stopping at the next update boundary (send it again to end at once, without saving)"
            )),
        }
    }
}
