//! A checkpoint from the root dict of a `.pt` file.

use super::{Ancestor, Best, Checkpoint, CheckpointError, FORMAT_VERSION, Metrics};
use crate::display::scalar;
use crate::identity::{CORPUS_FINGERPRINT, Identity, TOKENIZER};
use crate::metrics::Objective;
use crate::position::{Plan, Position};
use crate::state::{self, State};
use keepstep_pt::{Dict, Value};
use std::collections::BTreeMap;

/// The keys of every root, next to the parts of the state.
const ROOT: [&str; 8] =
    ["epoch", "step", "global_step", "train_loss", "val_loss", "best_val_loss", "config", "keepstep"];

/// The keys that `keepstep` has in every version.
const OWN: [&str; 9] = [
    "format_version",
    "numerics_version",
    "seed",
    "origin",
    "plan",
    "num_updates",
    "metrics",
    "best",
    "pending",
];

impl Checkpoint {
    /// Reads the root of a file.
    ///
    /// # Errors
    /// A key that is missing, unknown or of another kind, a newer format, or a position that contradicts itself.
    pub fn from_value(root: &Value) -> Result<Checkpoint, CheckpointError> {
        let root = root.as_dict().ok_or(CheckpointError::Foreign { key: "keepstep" })?;
        let own = root.get("keepstep").and_then(Value::as_dict);
        let own = own.ok_or(CheckpointError::Foreign { key: "keepstep" })?;
        let own = Part { prefix: "keepstep", dict: own };
        let version = own.int("format_version")?;
        if version > FORMAT_VERSION {
            return Err(CheckpointError::Newer { found: version });
        }
        if version < 1 {
            return Err(own.kind("format_version", "a version of the format"));
        }
        let root = Part { prefix: "", dict: root };
        let names = if version == 1 { state::VERSION_1.map(str::to_owned).to_vec() } else { own.names()? };
        let keys: Vec<String> = names.iter().map(|name| state::key(name)).collect();
        root.refuse_extra(
            version,
            &[&ROOT[..], &keys.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
        )?;
        let by_version: &[&str] = match version {
            1 => &["lineage", CORPUS_FINGERPRINT, TOKENIZER],
            _ => &["lineage", "inputs", "parts", "objective", "other_metrics", "stopped"],
        };
        own.refuse_extra(version, &[&OWN[..], by_version].concat())?;
        let sizes = own.part("plan", "keepstep.plan")?;
        let checkpoint = Checkpoint {
            position: root.position()?,
            state: root.state(&names)?,
            metrics: Metrics {
                val_loss: root.optional_float("val_loss")?,
                ..own.metrics(if version == 1 { "val_loss" } else { "value" })?
            },
            objective: if version == 1 { Objective::default() } else { own.objective()? },
            identity: own.identity(version, root.part("config", "config")?.dict)?,
            plan: Plan {
                steps_per_epoch: sizes.size("steps_per_epoch")?,
                gradient_accumulation_steps: sizes.size("gradient_accumulation_steps")?,
                total_steps: sizes.count("total_steps")?,
            },
            origin: own.part("origin", "keepstep.origin")?.position()?,
            num_updates: own.count("num_updates")?,
            pending: own.dict.get("pending").is_some_and(|value| *value == Value::Bool(true)),
            stopped: own.dict.get("stopped").map(|_| own.text("stopped")).transpose()?,
            lineage: own.lineage()?,
        };
        checkpoint.plan.check(checkpoint.origin, checkpoint.position)?;
        Ok(checkpoint)
    }
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
        self.dict.get(key).ok_or_else(|| CheckpointError::Missing { key: self.name(key) })
    }

    fn part(&self, key: &str, prefix: &'static str) -> Result<Part<'a>, CheckpointError> {
        let dict = self.value(key)?.as_dict().ok_or_else(|| self.kind(key, "a dict"))?;
        Ok(Part { prefix, dict })
    }

    fn int(&self, key: &str) -> Result<i64, CheckpointError> {
        self.value(key)?.as_int().ok_or_else(|| self.kind(key, "an int"))
    }

    fn count(&self, key: &str) -> Result<u64, CheckpointError> {
        self.value(key)?.as_u64().ok_or_else(|| self.kind(key, "an int of at least 0"))
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

    /// The names of the state's parts.
    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        let expected = || self.kind("parts", "a list of names");
        let names = self.value("parts")?.as_list().ok_or_else(expected)?;
        names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(expected)).collect()
    }

    fn state(&self, names: &[String]) -> Result<State, CheckpointError> {
        let parts = names.iter().map(|name| Ok((name.clone(), self.value(&state::key(name))?.clone())));
        let parts = parts.collect::<Result<Vec<_>, CheckpointError>>()?;
        let key = "keepstep.parts".to_owned();
        State::from_parts(parts)
            .map_err(|_| CheckpointError::Kind { key, expected: "a list of names that parts can have" })
    }

    fn identity(&self, version: i64, config: &Dict) -> Result<Identity, CheckpointError> {
        let identity = Identity::new(self.count("seed")?)
            .with_numerics(self.count("numerics_version")?)
            .with_config(config.clone());
        if version == 1 {
            return Ok(identity
                .with_input(CORPUS_FINGERPRINT, self.text(CORPUS_FINGERPRINT)?)
                .with_input(TOKENIZER, self.text(TOKENIZER)?));
        }
        let inputs = self.part("inputs", "keepstep.inputs")?;
        inputs.dict.iter().try_fold(identity, |identity, (name, _)| {
            let name = name.as_str().ok_or_else(|| self.kind("inputs", "a dict of strings"))?;
            Ok(identity.with_input(name, inputs.text(name)?))
        })
    }

    /// The running totals, apart from the validation loss.
    fn metrics(&self, best_value: &str) -> Result<Metrics, CheckpointError> {
        let sums = self.part("metrics", "keepstep.metrics")?;
        let best = match self.value("best")? {
            Value::None => None,
            _ => {
                let part = self.part("best", "keepstep.best")?;
                Some(Best { position: part.position()?, value: part.float(best_value)? })
            }
        };
        let mut others = BTreeMap::new();
        if self.dict.get("other_metrics").is_some() {
            let part = self.part("other_metrics", "keepstep.other_metrics")?;
            for (name, _) in part.dict.iter() {
                let name = name.as_str().ok_or_else(|| self.kind("other_metrics", "a dict of floats"))?;
                others.insert(name.to_owned(), part.float(name)?);
            }
        }
        let (loss_sum, num_tokens) = (sums.float("loss_sum")?, sums.count("num_tokens")?);
        Ok(Metrics { loss_sum, num_tokens, val_loss: None, others, best })
    }

    fn objective(&self) -> Result<Objective, CheckpointError> {
        let part = self.part("objective", "keepstep.objective")?;
        let metric = part.text("metric")?;
        match part.text("goal")?.as_str() {
            "min" => Ok(Objective::min(metric)),
            "max" => Ok(Objective::max(metric)),
            _ => Err(part.kind("goal", "`min` or `max`")),
        }
    }

    fn lineage(&self) -> Result<Vec<Ancestor>, CheckpointError> {
        let Some(value) = self.dict.get("lineage") else { return Ok(Vec::new()) };
        let ancestors = value.as_list().ok_or_else(|| self.kind("lineage", "a list"))?;
        let read = |value: &Value| {
            let dict = value.as_dict().ok_or_else(|| self.kind("lineage", "a list of dicts"))?;
            let part = Part { prefix: "keepstep.lineage", dict };
            let config = part.part("config", "keepstep.lineage.config")?.dict.clone();
            Ok(Ancestor::new(part.position()?, config, part.count("seed")?))
        };
        ancestors.iter().map(read).collect()
    }

    fn refuse_extra(&self, version: i64, known: &[&str]) -> Result<(), CheckpointError> {
        for (key, _) in self.dict.iter() {
            if !key.as_str().is_some_and(|key| known.contains(&key)) {
                return Err(CheckpointError::Extra { key: self.name(&scalar(key)), version });
            }
        }
        Ok(())
    }
}
