//! A checkpoint: the value of a run at a position.

use crate::identity::Identity;
use crate::position::{Plan, Position, PositionError};
use keepstep_pt::{Dict, Value};
use thiserror::Error;

/// The version of the file's content. Older versions stay readable.
pub const FORMAT_VERSION: i64 = 1;

/// The three state dicts.
#[derive(Debug, Clone)]
pub struct State {
    /// `model.state_dict()`.
    pub model: Value,
    /// `optimizer.state_dict()`.
    pub optimizer: Value,
    /// `scheduler.state_dict()`.
    pub scheduler: Value,
}

/// Running totals, none of which resuming resets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Metrics {
    /// The sum of the losses of this epoch's tokens so far.
    pub loss_sum: f64,
    /// How many tokens those are.
    pub num_tokens: u64,
    /// The last validation loss.
    pub val_loss: Option<f64>,
    /// The lowest validation loss so far, and where it was found.
    pub best: Option<Best>,
}

/// The lowest validation loss so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// Where it was found.
    pub position: Position,
    /// The loss.
    pub val_loss: f64,
}

impl Metrics {
    /// Mean loss over the tokens of this epoch so far; None where there are none.
    pub fn train_loss(&self) -> Option<f64> {
        (self.num_tokens > 0).then(|| self.loss_sum / self.num_tokens as f64)
    }
}

/// Where a branched run comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Ancestor {
    /// Where the parent was.
    pub position: Position,
    /// The parent's config.
    pub config: Dict,
    /// The parent's seed.
    pub seed: u64,
}

/// All that a checkpoint holds.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Where the run is.
    pub position: Position,
    /// The state dicts.
    pub state: State,
    /// The running totals.
    pub metrics: Metrics,
    /// What the run is a function of.
    pub identity: Identity,
    /// The sizes of the run.
    pub plan: Plan,
    /// Where the run began: [`Position::START`] unless it was imported or branched.
    pub origin: Position,
    /// Updates that the optimizer has made.
    pub num_updates: u64,
    /// Whether an evaluation that is due here has not been made yet.
    pub pending: bool,
    /// The runs that this one was branched from, oldest first.
    pub lineage: Vec<Ancestor>,
}

/// A `.pt` file that is not a usable checkpoint of keepstep.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file was not written by keepstep.
    #[error("it is not a checkpoint of keepstep: it has no `{key}`")]
    Foreign {
        /// The key that every checkpoint has.
        key: &'static str,
    },
    /// A newer keepstep wrote it.
    #[error(
        "its format is version {found}, and this keepstep reads up to {FORMAT_VERSION}: use a newer keepstep"
    )]
    Newer {
        /// The version.
        found: i64,
    },
    /// A value is missing or is not what it must be.
    #[error("`{key}` is missing or is not {expected}")]
    Kind {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A key that has no place there.
    #[error("`{key}` has no place in a checkpoint of format {FORMAT_VERSION}")]
    Extra {
        /// The key.
        key: String,
    },
    /// Its numbers contradict each other.
    #[error("its position contradicts itself")]
    Position(#[from] PositionError),
}

impl Checkpoint {
    /// The root of the file.
    pub fn to_value(&self) -> Value {
        let mut root = Dict::new();
        put_position(&mut root, self.position);
        root.insert("model_state_dict", self.state.model.clone());
        root.insert("optimizer_state_dict", self.state.optimizer.clone());
        root.insert("scheduler_state_dict", self.state.scheduler.clone());
        root.insert("train_loss", self.metrics.train_loss());
        root.insert("val_loss", self.metrics.val_loss);
        root.insert("best_val_loss", self.metrics.best.map(|best| best.val_loss));
        root.insert("config", self.identity.config.clone());
        root.insert("keepstep", self.own_part());
        Value::Dict(root)
    }

    fn own_part(&self) -> Dict {
        let mut own = Dict::new();
        own.insert("format_version", FORMAT_VERSION);
        own.insert("numerics_version", self.identity.numerics as i64);
        own.insert("seed", self.identity.seed as i64);
        own.insert("origin", position_dict(self.origin));
        let mut plan = Dict::new();
        plan.insert("steps_per_epoch", self.plan.steps_per_epoch as i64);
        plan.insert("gradient_accumulation_steps", self.plan.gradient_accumulation_steps as i64);
        plan.insert("total_steps", self.plan.total_steps as i64);
        own.insert("plan", plan);
        own.insert("corpus_fingerprint", self.identity.corpus_fingerprint.as_str());
        own.insert("tokenizer", self.identity.tokenizer.as_str());
        own.insert("num_updates", self.num_updates as i64);
        let mut metrics = Dict::new();
        metrics.insert("loss_sum", self.metrics.loss_sum);
        metrics.insert("num_tokens", self.metrics.num_tokens as i64);
        own.insert("metrics", metrics);
        let best = self.metrics.best.map(|best| {
            let mut dict = position_dict(best.position);
            dict.insert("val_loss", best.val_loss);
            Value::Dict(dict)
        });
        own.insert("best", best.unwrap_or(Value::None));
        if self.pending {
            own.insert("pending", true);
        }
        if !self.lineage.is_empty() {
            let ancestors = self.lineage.iter().map(|ancestor| {
                let mut dict = position_dict(ancestor.position);
                dict.insert("seed", ancestor.seed as i64);
                dict.insert("config", ancestor.config.clone());
                Value::Dict(dict)
            });
            own.insert("lineage", ancestors.collect::<Vec<_>>());
        }
        own
    }

    /// Reads the root of a file.
    ///
    /// # Errors
    /// A key that is missing, too much or of another kind, a newer format, or a position that contradicts itself.
    pub fn from_value(root: &Value) -> Result<Checkpoint, CheckpointError> {
        let root = root.as_dict().ok_or(CheckpointError::Foreign { key: "keepstep" })?;
        let own = root.get("keepstep").and_then(Value::as_dict);
        let own = Part { prefix: "keepstep", dict: own.ok_or(CheckpointError::Foreign { key: "keepstep" })? };
        let found = own.int("format_version")?;
        if found > FORMAT_VERSION {
            return Err(CheckpointError::Newer { found });
        }
        let root = Part { prefix: "", dict: root };
        root.refuse_extra(&[
            "epoch",
            "step",
            "global_step",
            "model_state_dict",
            "optimizer_state_dict",
            "scheduler_state_dict",
            "train_loss",
            "val_loss",
            "best_val_loss",
            "config",
            "keepstep",
        ])?;
        own.refuse_extra(&[
            "format_version",
            "numerics_version",
            "seed",
            "origin",
            "plan",
            "corpus_fingerprint",
            "tokenizer",
            "num_updates",
            "metrics",
            "best",
            "pending",
            "lineage",
        ])?;
        let sizes = own.part("plan", "keepstep.plan")?;
        let sums = own.part("metrics", "keepstep.metrics")?;
        let best = match own.value("best")? {
            Value::None => None,
            _ => {
                let part = own.part("best", "keepstep.best")?;
                Some(Best { position: part.position()?, val_loss: part.float("val_loss")? })
            }
        };
        let checkpoint = Checkpoint {
            position: root.position()?,
            state: State {
                model: root.value("model_state_dict")?.clone(),
                optimizer: root.value("optimizer_state_dict")?.clone(),
                scheduler: root.value("scheduler_state_dict")?.clone(),
            },
            metrics: Metrics {
                loss_sum: sums.float("loss_sum")?,
                num_tokens: sums.count("num_tokens")?,
                val_loss: root.optional_float("val_loss")?,
                best,
            },
            identity: Identity {
                seed: own.count("seed")?,
                numerics: own.count("numerics_version")?,
                config: root.part("config", "config")?.dict.clone(),
                corpus_fingerprint: own.text("corpus_fingerprint")?,
                tokenizer: own.text("tokenizer")?,
            },
            plan: Plan {
                steps_per_epoch: sizes.size("steps_per_epoch")?,
                gradient_accumulation_steps: sizes.size("gradient_accumulation_steps")?,
                total_steps: sizes.count("total_steps")?,
            },
            origin: own.part("origin", "keepstep.origin")?.position()?,
            num_updates: own.count("num_updates")?,
            pending: own.dict.get("pending").is_some_and(|value| *value == Value::Bool(true)),
            lineage: own.lineage()?,
        };
        checkpoint.plan.check(checkpoint.origin, checkpoint.position)?;
        Ok(checkpoint)
    }

    /// Whether `other` is of the same run.
    pub fn is_same_run(&self, other: &Checkpoint) -> bool {
        self.identity == other.identity && self.origin == other.origin && self.lineage == other.lineage
    }
}

fn put_position(dict: &mut Dict, position: Position) {
    dict.insert("epoch", position.epoch as i64);
    dict.insert("step", position.step as i64);
    dict.insert("global_step", position.global_step as i64);
}

fn position_dict(position: Position) -> Dict {
    let mut dict = Dict::new();
    put_position(&mut dict, position);
    dict
}

/// A dict of the file and the name under which errors speak of it.
struct Part<'a> {
    prefix: &'static str,
    dict: &'a Dict,
}

impl<'a> Part<'a> {
    fn name(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    fn kind(&self, key: &str, expected: &'static str) -> CheckpointError {
        CheckpointError::Kind { key: self.name(key), expected }
    }

    fn value(&self, key: &str) -> Result<&'a Value, CheckpointError> {
        self.dict.get(key).ok_or_else(|| self.kind(key, "there"))
    }

    fn part(&self, key: &str, prefix: &'static str) -> Result<Part<'a>, CheckpointError> {
        let dict = self.value(key)?.as_dict().ok_or_else(|| self.kind(key, "a dict"))?;
        Ok(Part { prefix, dict })
    }

    fn int(&self, key: &str) -> Result<i64, CheckpointError> {
        self.value(key)?.as_int().ok_or_else(|| self.kind(key, "an int"))
    }

    fn count(&self, key: &str) -> Result<u64, CheckpointError> {
        u64::try_from(self.int(key)?).map_err(|_| self.kind(key, "an int of at least 0"))
    }

    fn size(&self, key: &str) -> Result<u64, CheckpointError> {
        match self.count(key)? {
            0 => Err(self.kind(key, "an int of at least 1")),
            size => Ok(size),
        }
    }

    fn float(&self, key: &str) -> Result<f64, CheckpointError> {
        self.value(key)?.as_float().ok_or_else(|| self.kind(key, "a float"))
    }

    fn optional_float(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        if *self.value(key)? == Value::None { Ok(None) } else { self.float(key).map(Some) }
    }

    fn text(&self, key: &str) -> Result<String, CheckpointError> {
        self.value(key)?.as_str().map(str::to_owned).ok_or_else(|| self.kind(key, "a string"))
    }

    fn position(&self) -> Result<Position, CheckpointError> {
        Ok(Position {
            epoch: self.size("epoch")?,
            step: self.count("step")?,
            global_step: self.count("global_step")?,
        })
    }

    fn lineage(&self) -> Result<Vec<Ancestor>, CheckpointError> {
        let Some(value) = self.dict.get("lineage") else { return Ok(Vec::new()) };
        let ancestors = value.as_list().ok_or_else(|| self.kind("lineage", "a list"))?;
        let read = |value: &Value| {
            let dict = value.as_dict().ok_or_else(|| self.kind("lineage", "a list of dicts"))?;
            let part = Part { prefix: "keepstep.lineage", dict };
            let config = part.part("config", "keepstep.lineage.config")?.dict.clone();
            Ok(Ancestor { position: part.position()?, config, seed: part.count("seed")? })
        };
        ancestors.iter().map(read).collect()
    }

    fn refuse_extra(&self, known: &[&str]) -> Result<(), CheckpointError> {
        for (key, _) in self.dict.iter() {
            if !key.as_str().is_some_and(|key| known.contains(&key)) {
                return Err(CheckpointError::Extra { key: self.name(&crate::display::scalar(key)) });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn checkpoint() -> Checkpoint {
        let position = Position { epoch: 2, step: 6, global_step: 6 };
        Checkpoint {
            position,
            state: State { model: Dict::new().into(), optimizer: Dict::new().into(), scheduler: Value::None },
            metrics: Metrics {
                loss_sum: 12.5,
                num_tokens: 5,
                val_loss: Some(2.0),
                best: Some(Best { position, val_loss: 2.0 }),
            },
            identity: Identity::new(7).with("learning_rate", 0.1),
            plan: Plan { steps_per_epoch: 10, gradient_accumulation_steps: 3, total_steps: 12 },
            origin: Position::START,
            num_updates: 6,
            pending: true,
            lineage: vec![Ancestor { position: Position::START, config: Dict::new(), seed: 3 }],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let written = checkpoint();
        let read = Checkpoint::from_value(&written.to_value()).expect("a checkpoint");
        assert_eq!(read.to_value(), written.to_value());
        assert!(read.is_same_run(&written));
        assert_eq!(read.metrics.train_loss(), Some(2.5));
    }

    #[test]
    fn each_missing_and_each_extra_key_is_refused() {
        let Value::Dict(root) = checkpoint().to_value() else { panic!("a dict") };
        for (key, _) in root.iter() {
            let mut less = Dict::new();
            for (other, value) in root.iter().filter(|(other, _)| *other != key) {
                less.insert(other.clone(), value.clone());
            }
            let name = key.as_str().expect("a name");
            let allowed = ["train_loss", "best_val_loss"].contains(&name);
            assert_eq!(Checkpoint::from_value(&less.into()).is_ok(), allowed, "{name}");
        }
        let mut more = root.clone();
        more.insert("surprise", 1_i64);
        let error = Checkpoint::from_value(&more.into()).expect_err("an extra key");
        assert!(error.to_string().contains("surprise"), "{error}");
    }

    #[test]
    fn contradicting_numbers_and_newer_formats_are_refused() {
        let mut wrong = checkpoint();
        wrong.position.global_step = 7;
        let error = Checkpoint::from_value(&wrong.to_value()).expect_err("a contradiction");
        assert!(matches!(error, CheckpointError::Position(_)));
        let Value::Dict(mut root) = checkpoint().to_value() else { panic!("a dict") };
        let mut own = root.get("keepstep").and_then(Value::as_dict).expect("its own part").clone();
        own.insert("format_version", 2_i64);
        root.insert("keepstep", own);
        let error = Checkpoint::from_value(&root.into()).expect_err("a newer format");
        assert_eq!(error, CheckpointError::Newer { found: 2 });
    }
}
