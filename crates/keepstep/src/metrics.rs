//! The running totals of a run, and the best evaluation so far.

use crate::position::Position;
use std::collections::BTreeMap;
use std::fmt;

/// The metric that decides the best where a loop names no other.
pub const VAL_LOSS: &str = "val_loss";

/// Running totals, none of which resuming resets.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// The sum of the losses of this epoch's tokens (or samples) so far.
    pub loss_sum: f64,
    /// How many tokens those are.
    pub num_tokens: u64,
    /// The last validation loss.
    pub val_loss: Option<f64>,
    /// The other metrics of the last evaluation, by name.
    pub others: BTreeMap<String, f64>,
    /// The best evaluation so far.
    pub best: Option<Best>,
}

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Best {
    /// Where it was made.
    pub position: Position,
    /// The value of the metric that decides: the validation loss, unless the [`Objective`] names another.
    pub value: f64,
}

impl Best {
    /// Records an evaluation that was made at `position`.
    pub fn new(position: Position, value: f64) -> Best {
        Best { position, value }
    }
}

impl Metrics {
    /// Mean loss over the tokens of this epoch so far; None where there are none.
    pub fn train_loss(&self) -> Option<f64> {
        (self.num_tokens > 0).then(|| self.loss_sum / self.num_tokens as f64)
    }
}

/// The results of one evaluation.
///
/// ```
/// use keepstep::metrics::Evaluation;
///
/// let evaluation = Evaluation::new(2.31).with("accuracy", 0.71);
/// assert_eq!(evaluation.get("accuracy"), Some(0.71));
/// assert_eq!(Evaluation::from(2.31).get("val_loss"), Some(2.31));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// The validation loss, if the loop computes one.
    pub val_loss: Option<f64>,
    /// Other metrics, by name.
    pub others: BTreeMap<String, f64>,
}

impl Evaluation {
    /// An evaluation with a validation loss.
    pub fn new(val_loss: f64) -> Evaluation {
        Evaluation { val_loss: Some(val_loss), others: BTreeMap::new() }
    }

    /// Adds another metric. One named `val_loss` becomes the validation loss.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Evaluation {
        let name = name.into();
        if name == VAL_LOSS {
            self.val_loss = Some(value);
        } else {
            self.others.insert(name, value);
        }
        self
    }

    /// The value of a metric.
    pub fn get(&self, name: &str) -> Option<f64> {
        if name == VAL_LOSS { self.val_loss } else { self.others.get(name).copied() }
    }
}

impl From<f64> for Evaluation {
    fn from(val_loss: f64) -> Evaluation {
        Evaluation::new(val_loss)
    }
}

/// Which metric decides the best model, and whether low or high values are better.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Objective {
    /// The metric's name.
    pub metric: String,
    /// Which of its values are better.
    pub goal: Goal,
}

/// Whether low or high values of a metric are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Strictly lower is better.
    Min,
    /// Strictly higher is better.
    Max,
}

impl Objective {
    /// The lowest value of a metric is the best.
    pub fn min(metric: impl Into<String>) -> Objective {
        Objective { metric: metric.into(), goal: Goal::Min }
    }

    /// The highest value of a metric is the best.
    pub fn max(metric: impl Into<String>) -> Objective {
        Objective { metric: metric.into(), goal: Goal::Max }
    }

    /// Whether `value` is better than `best`; the first value is better than none. NaN never is.
    pub fn is_better(&self, value: f64, best: Option<f64>) -> bool {
        match (best, self.goal) {
            (None, _) => !value.is_nan(),
            (Some(best), Goal::Min) => value < best,
            (Some(best), Goal::Max) => value > best,
        }
    }
}

impl Default for Objective {
    /// The lowest validation loss.
    fn default() -> Objective {
        Objective::min(VAL_LOSS)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.goal.text(), self.metric)
    }
}

impl Goal {
    /// As a checkpoint has it.
    pub fn text(self) -> &'static str {
        match self {
            Goal::Min => "min",
            Goal::Max => "max",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strictly_better_and_never_nan() {
        for (objective, better, worse) in
            [(Objective::default(), 1.0, 2.0), (Objective::max("accuracy"), 2.0, 1.0)]
        {
            assert!(objective.is_better(better, Some(worse)) && objective.is_better(worse, None));
            assert!(!objective.is_better(worse, Some(better)) && !objective.is_better(better, Some(better)));
            assert!(!objective.is_better(f64::NAN, None) && !objective.is_better(f64::NAN, Some(worse)));
        }
        assert_eq!(Objective::max("accuracy").to_string(), "max accuracy");
    }
}
