//! Progress of a transfer on standard error: a bar on a terminal, plain lines elsewhere.

use crate::format::{clock, megabytes};
use crate::output::{say, stderr_width};
use crate::progress::Console;
use keepstep_remote::{Progress, Transfer};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Shows one transfer after the other.
#[derive(Debug)]
pub(crate) struct TransferBar {
    verb: &'static str,
    console: Console,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    what: String,
    began: Instant,
    /// Bytes that were through when the clock began.
    first_bytes: u64,
    last_line: Instant,
}

impl TransferBar {
    /// `verb` begins each line, for example "Pushing".
    pub(crate) fn new(verb: &'static str) -> TransferBar {
        TransferBar { verb, console: Console::new(), current: Mutex::new(None) }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Console::Bar(bar) = &self.console {
            bar.finish_and_clear();
        }
    }
}

impl Progress for TransferBar {
    fn transferred(&self, transfer: &Transfer) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let current = match &mut *current {
            Some(current) if current.what == transfer.what => current,
            other => other.insert(Current {
                what: transfer.what.clone(),
                began: now,
                first_bytes: transfer.done_bytes,
                last_line: now,
            }),
        };
        let text = line(self.verb, transfer, current.first_bytes, current.began.elapsed());
        match &self.console {
            Console::Bar(bar) => bar.set_message(text.chars().take(stderr_width()).collect::<String>()),
            _ if current.last_line.elapsed() >= INTERVAL => {
                current.last_line = now;
                say(&text);
            }
            _ => {}
        }
    }
}

/// For example `Pulling best_model.pt: 40% (40.0 of 100.0 MB, 12.5 MB/s, 00:04 left)`.
fn line(verb: &str, transfer: &Transfer, first_bytes: u64, elapsed: Duration) -> String {
    let Transfer { what, done_bytes, total_bytes, .. } = transfer;
    let percent = (done_bytes * 100).checked_div(*total_bytes).unwrap_or(100);
    let mut text =
        format!("{verb} {what}: {percent}% ({} of {}", megabytes(*done_bytes), megabytes(*total_bytes));
    // The first part only starts the clock.
    let seconds = elapsed.as_secs_f64();
    let rate = done_bytes.saturating_sub(first_bytes) as f64 / seconds.max(1e-9);
    if seconds >= 0.5 && rate > 0.0 {
        let left = Duration::from_secs_f64(total_bytes.saturating_sub(*done_bytes) as f64 / rate);
        text.push_str(&format!(", {:.1} MB/s, {} left", rate / 1e6, clock(left)));
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_bytes_since_the_clock_began() {
        let mut transfer = keepstep_remote::Transfer::new("best_model.pt", 100_000_000);
        transfer.done_bytes = 40_000_000;
        let text = line("Pulling", &transfer, 8_000_000, Duration::from_secs(4));
        assert_eq!(text, "Pulling best_model.pt: 40% (40.0 MB of 100.0 MB, 8.0 MB/s, 00:07 left)");
        let text = line("Pulling", &transfer, 40_000_000, Duration::ZERO);
        assert_eq!(text, "Pulling best_model.pt: 40% (40.0 MB of 100.0 MB)");
    }
}
