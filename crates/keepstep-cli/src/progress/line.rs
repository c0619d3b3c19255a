//! The text of the progress bar, a pure function of the progress.

use crate::format::{clock, loss, scientific};
use std::time::Duration;

/// The numbers in a line of progress.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) epoch: u64,
    /// Micro-batches done in this epoch.
    pub(crate) step: u64,
    pub(crate) steps_per_epoch: u64,
    /// The step at which this epoch, or the run, ends.
    pub(crate) last_step: u64,
    pub(crate) global_step: u64,
    /// The mean loss over the epoch so far, across sessions.
    pub(crate) loss: Option<f64>,
    pub(crate) learning_rate: Option<f64>,
    /// Time that this process has spent in this epoch.
    pub(crate) elapsed: Duration,
    /// Steps that this process has done, over all epochs.
    pub(crate) steps_here: u64,
    /// Time spent on those steps, without evaluations and saves.
    pub(crate) training: Duration,
}

/// The parts that a line shows.
#[derive(Clone, Copy)]
struct Parts {
    bar: usize,
    count: bool,
    global_step: bool,
    learning_rate: bool,
}

const WHOLE: Parts = Parts { bar: WIDTH, count: true, global_step: true, learning_rate: true };
/// Narrower and narrower lines: what they leave out, in order.
const PARTS: [Parts; 6] = [
    WHOLE,
    Parts { learning_rate: false, ..WHOLE },
    Parts { learning_rate: false, bar: 5, ..WHOLE },
    Parts { learning_rate: false, bar: 0, ..WHOLE },
    Parts { learning_rate: false, bar: 0, global_step: false, ..WHOLE },
    Parts { learning_rate: false, bar: 0, global_step: false, count: false },
];

const WIDTH: usize = 10;
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.write(f, WHOLE)
    }
}

impl Line {
    /// The line with as many parts as fit into `width` columns.
    pub(crate) fn fit(&self, width: usize) -> String {
        let texts = PARTS.map(|parts| {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = self.write(&mut text, parts);
            text
        });
        let fits = texts.iter().find(|text| text.chars().count() <= width);
        fits.or(texts.last()).map(|text| text.chars().take(width).collect()).unwrap_or_default()
    }

    fn write(&self, f: &mut impl std::fmt::Write, parts: Parts) -> std::fmt::Result {
        let total = self.steps_per_epoch.max(1);
        let percent = self.step.saturating_mul(100) / total;
        write!(f, "Epoch {}: {percent:3}%", self.epoch)?;
        if parts.bar > 0 {
            write!(f, "|{}|", bar(self.step, total, parts.bar))?;
        }
        if parts.count {
            write!(f, " {}/{}", self.step, self.steps_per_epoch)?;
        }
        write!(f, " [{}<{}]", clock(self.elapsed), self.remaining().map_or("?".to_owned(), clock))?;
        if let Some(mean) = self.loss {
            write!(f, " loss={}", loss(mean))?;
        }
        if parts.global_step {
            write!(f, " global_step={}", self.global_step)?;
        }
        if let Some(rate) = self.learning_rate.filter(|_| parts.learning_rate) {
            write!(f, " lr={}", scientific(rate))?;
        }
        Ok(())
    }

    /// The time left in this epoch or run, at the rate of this process.
    fn remaining(&self) -> Option<Duration> {
        if self.steps_here == 0 {
            return None;
        }
        let left = self.last_step.saturating_sub(self.step) as f64;
        Duration::try_from_secs_f64(self.training.as_secs_f64() / self.steps_here as f64 * left).ok()
    }
}

/// `Doing:  30%|███       | 12/40`
pub(crate) fn share(what: &str, done: u64, total: u64, unit: impl Fn(u64) -> String) -> String {
    let percent = done.saturating_mul(100) / total.max(1);
    format!("{what}: {percent:3}%|{}| {}/{}", bar(done, total.max(1), WIDTH), unit(done), unit(total))
}

/// A bar of `width` characters that fills from the left in eighths.
fn bar(step: u64, total: u64, width: usize) -> String {
    let eighths = (u128::from(step.min(total)) * (width as u128) * 8 / u128::from(total)) as usize;
    let mut text: String = std::iter::repeat_n('█', eighths / 8).collect();
    if eighths / 8 < width {
        text.push(EIGHTHS[eighths % 8]);
        text.extend(std::iter::repeat_n(' ', width - eighths / 8 - 1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resumed() -> Line {
        Line {
            epoch: 2,
            step: 5400,
            steps_per_epoch: 10_000,
            last_step: 10_000,
            global_step: 15_400,
            loss: Some(3.2456),
            learning_rate: Some(5e-4),
            elapsed: Duration::from_secs_f64(38.0),
            steps_here: 400,
            // Of the 38 seconds, some went into an evaluation.
            training: Duration::from_secs_f64(37.2),
        }
    }

    #[test]
    fn a_resumed_bar_starts_where_the_run_is() {
        assert_eq!(
            resumed().to_string(),
            "Epoch 2:  54%|█████▍    | 5400/10000 [00:38<07:07] loss=3.2456 global_step=15400 lr=5.00e-04"
        );
    }

    /// An evaluation of an hour before a session's first step does not change the estimate.
    #[test]
    fn the_time_left_is_that_of_steps() {
        let line = Line {
            step: 5001,
            steps_here: 1,
            elapsed: Duration::from_secs(3_600),
            training: Duration::from_millis(93),
            ..resumed()
        };
        assert!(line.to_string().contains("[1:00:00<07:44]"), "{line}");
    }

    #[test]
    fn narrow_terminals_show_less() {
        for (width, expected) in [
            (
                200,
                "Epoch 2:  54%|█████▍    | 5400/10000 [00:38<07:07] loss=3.2456 global_step=15400 lr=5.00e-04",
            ),
            (90, "Epoch 2:  54%|█████▍    | 5400/10000 [00:38<07:07] loss=3.2456 global_step=15400"),
            (79, "Epoch 2:  54%|██▋  | 5400/10000 [00:38<07:07] loss=3.2456 global_step=15400"),
            (72, "Epoch 2:  54% 5400/10000 [00:38<07:07] loss=3.2456 global_step=15400"),
            (60, "Epoch 2:  54% 5400/10000 [00:38<07:07] loss=3.2456"),
            (40, "Epoch 2:  54% [00:38<07:07] loss=3.2456"),
            (20, "Epoch 2:  54% [00:38"),
        ] {
            assert_eq!(resumed().fit(width), expected, "{width} columns");
        }
    }

    #[test]
    fn nothing_done_yet_shows_no_invented_time() {
        let line = Line {
            epoch: 1,
            step: 0,
            steps_per_epoch: 3,
            last_step: 3,
            global_step: 0,
            loss: None,
            learning_rate: None,
            elapsed: Duration::ZERO,
            steps_here: 0,
            training: Duration::ZERO,
        };
        assert_eq!(line.to_string(), "Epoch 1:   0%|          | 0/3 [00:00<?] global_step=0");
    }

    #[test]
    fn a_full_bar_is_full() {
        assert_eq!(bar(7, 7, WIDTH), "██████████");
        assert_eq!(bar(0, 7, WIDTH).chars().count(), WIDTH);
        assert_eq!(share("Evaluating", 12, 40, |n| n.to_string()), "Evaluating:  30%|███       | 12/40");
    }
}
