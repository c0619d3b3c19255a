//! Lines on standard error, above the bar where there is one.

use super::json;
use crate::output::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::ffi::OsStr;
use std::io::{self, IsTerminal};

/// Whoever has something to say while a command runs, also from another thread.
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
    /// A bar where standard error is a terminal that can move its cursor, plain lines elsewhere. The output cell of a
    /// notebook poses as a terminal and cannot.
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

    /// Says something that stays.
    pub(crate) fn say(&self, text: &str) {
        match self {
            Console::Lines => say(text),
            Console::Bar(bar) => bar.suspend(|| say(text)),
            Console::Json => json::write(&json::note(text)),
        }
    }

    /// Says that a signal was heard.
    pub(crate) fn stopping(&self, signal: &str) {
        match self {
            Console::Json => json::write(&json::stopping(signal)),
            _ => self.say(&format!(
                "{signal}: stopping at the next update boundary, with a checkpoint (once more ends it at once)"
            )),
        }
    }
}
