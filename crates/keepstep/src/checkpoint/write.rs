//! A checkpoint as the root dict of a `.pt` file.

use super::{Checkpoint, FORMAT_VERSION};
use crate::identity::{CORPUS_FINGERPRINT, TOKENIZER};
use crate::metrics::Objective;
use crate::position::Position;
use crate::state;
use keepstep_pt::{Dict, Value};

/// The largest count that format version 1 can hold.
const LARGEST_OF_VERSION_1: u64 = i64::MAX as u64;

impl Checkpoint {
    /// The root of the file.
    pub fn to_value(&self) -> Value {
        let mut root = Dict::new();
        put_position(&mut root, self.position);
        for (name, value) in self.state.iter() {
            root.insert(state::key(name), value.clone());
        }
        root.insert("train_loss", self.metrics.train_loss());
        root.insert("val_loss", self.metrics.val_loss);
        root.insert("best_val_loss", self.best_val_loss());
        root.insert("config", self.identity.config.clone());
        root.insert("keepstep", if self.is_version_1() { self.version_1() } else { self.version_2() });
        Value::Dict(root)
    }

    /// Whether format version 1 can hold it all.
    fn is_version_1(&self) -> bool {
        let best = self.metrics.best.iter().map(|best| best.position);
        let ancestors = self.lineage.iter().map(|ancestor| ancestor.position);
        let positions = [self.position, self.origin].into_iter().chain(best).chain(ancestors);
        let counts = [
            self.identity.seed,
            self.identity.numerics,
            self.plan.steps_per_epoch,
            self.plan.gradient_accumulation_steps,
            self.plan.total_steps,
            self.num_updates,
            self.metrics.num_tokens,
        ];
        let mut all = positions
            .flat_map(|position| [position.epoch, position.step, position.global_step])
            .chain(counts)
            .chain(self.lineage.iter().map(|ancestor| ancestor.seed));
        all.all(|count| count <= LARGEST_OF_VERSION_1)
            && self.state.is_version_1()
            && self.identity.has_version_1_inputs()
            && self.objective == Objective::default()
            && self.metrics.others.is_empty()
            && self.stopped.is_none()
    }

    fn version_1(&self) -> Dict {
        let mut own = self.head(1);
        for name in [CORPUS_FINGERPRINT, TOKENIZER] {
            own.insert(name, self.identity.input(name).unwrap_or_default());
        }
        self.put_totals(&mut own, "val_loss");
        own
    }

    fn version_2(&self) -> Dict {
        let mut own = self.head(FORMAT_VERSION);
        let mut inputs = Dict::new();
        for (name, value) in self.identity.inputs() {
            inputs.insert(name, value);
        }
        own.insert("inputs", inputs);
        let names = self.state.names().map(Value::from);
        own.insert("parts", names.collect::<Vec<_>>());
        self.put_totals(&mut own, "value");
        let mut objective = Dict::new();
        objective.insert("metric", self.objective.metric.as_str());
        objective.insert("goal", self.objective.goal.text());
        own.insert("objective", objective);
        if !self.metrics.others.is_empty() {
            let mut others = Dict::new();
            for (name, value) in &self.metrics.others {
                others.insert(name.as_str(), *value);
            }
            own.insert("other_metrics", others);
        }
        if let Some(reason) = &self.stopped {
            own.insert("stopped", reason.as_str());
        }
        own
    }

    fn head(&self, format_version: i64) -> Dict {
        let mut own = Dict::new();
        own.insert("format_version", format_version);
        own.insert("numerics_version", self.identity.numerics);
        own.insert("seed", self.identity.seed);
        own.insert("origin", position_dict(self.origin));
        let mut plan = Dict::new();
        plan.insert("steps_per_epoch", self.plan.steps_per_epoch);
        plan.insert("gradient_accumulation_steps", self.plan.gradient_accumulation_steps);
        plan.insert("total_steps", self.plan.total_steps);
        own.insert("plan", plan);
        own
    }

    fn put_totals(&self, own: &mut Dict, best_value: &str) {
        own.insert("num_updates", self.num_updates);
        let mut metrics = Dict::new();
        metrics.insert("loss_sum", self.metrics.loss_sum);
        metrics.insert("num_tokens", self.metrics.num_tokens);
        own.insert("metrics", metrics);
        let best = self.metrics.best.map(|best| {
            let mut dict = position_dict(best.position);
            dict.insert(best_value, best.value);
            Value::Dict(dict)
        });
        own.insert("best", best.unwrap_or(Value::None));
        if self.pending {
            own.insert("pending", true);
        }
        if !self.lineage.is_empty() {
            let ancestors = self.lineage.iter().map(|ancestor| {
                let mut dict = position_dict(ancestor.position);
                dict.insert("seed", ancestor.seed);
                dict.insert("config", ancestor.config.clone());
                Value::Dict(dict)
            });
            own.insert("lineage", ancestors.collect::<Vec<_>>());
        }
    }
}

fn put_position(dict: &mut Dict, position: Position) {
    dict.insert("epoch", position.epoch);
    dict.insert("step", position.step);
    dict.insert("global_step", position.global_step);
}

fn position_dict(position: Position) -> Dict {
    let mut dict = Dict::new();
    put_position(&mut dict, position);
    dict
}
