//! A checkpoint: the value of a run at a position.

mod read;
mod write;

pub use crate::metrics::{Best, Metrics};
pub use crate::state::State;

use crate::identity::{Identity, same_dict};
use crate::metrics::{Objective, VAL_LOSS};
use crate::position::{Plan, Position, PositionError};
use keepstep_pt::Dict;
use thiserror::Error;

/// The newest version of the file's content. Older versions stay readable, and a file has the oldest version that can
/// hold its content.
pub const FORMAT_VERSION: i64 = 2;

/// Where a branched run comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ancestor {
    /// Where the parent was.
    pub position: Position,
    /// The parent's config.
    pub config: Dict,
    /// The parent's seed.
    pub seed: u64,
}

impl Ancestor {
    /// A parent that was at `position`.
    pub fn new(position: Position, config: Dict, seed: u64) -> Ancestor {
        Ancestor { position, config, seed }
    }
}

impl PartialEq for Ancestor {
    fn eq(&self, other: &Ancestor) -> bool {
        self.position == other.position && self.seed == other.seed && same_dict(&self.config, &other.config)
    }
}

/// All that a checkpoint holds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Where the run is.
    pub position: Position,
    /// The state dicts.
    pub state: State,
    /// The running totals.
    pub metrics: Metrics,
    /// Which metric decides the best.
    pub objective: Objective,
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
    /// Why the loop ended the run here, before its planned end; None where it did not.
    pub stopped: Option<String>,
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
    /// A key is missing.
    #[error("`{key}` is missing")]
    Missing {
        /// The key.
        key: String,
    },
    /// A value is not what it must be.
    #[error("`{key}` is not {expected}")]
    Kind {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A key that does not belong there.
    #[error("`{key}` does not belong in a checkpoint of format {version}")]
    Extra {
        /// The key.
        key: String,
        /// The file's format version.
        version: i64,
    },
    /// Its numbers contradict each other.
    #[error("its position contradicts itself")]
    Position(#[from] PositionError),
}

/// Computes the run's id. Branches of one run differ by where they began.
pub(crate) fn run_id(identity: &Identity, origin: Position, lineage: &[Ancestor]) -> String {
    if origin == Position::START && lineage.is_empty() {
        return identity.digest();
    }
    let places = lineage.iter().map(|ancestor| ancestor.position).chain([origin]);
    let places: Vec<String> = places.map(|place| place.to_string()).collect();
    identity.clone().with_input("origin", places.join("; ")).digest()
}

impl Checkpoint {
    /// Returns the id of the checkpoint's run: see [`Run::id`](crate::Run::id).
    pub fn run_id(&self) -> String {
        run_id(&self.identity, self.origin, &self.lineage)
    }

    /// A checkpoint of a run that began at [`Position::START`], without metrics. Its fields can be changed.
    pub fn new(identity: Identity, plan: Plan, position: Position, state: State) -> Checkpoint {
        Checkpoint {
            position,
            state,
            metrics: Metrics::default(),
            objective: Objective::default(),
            identity,
            plan,
            origin: Position::START,
            num_updates: position.global_step,
            pending: false,
            stopped: None,
            lineage: Vec::new(),
        }
    }

    /// The best validation loss so far; None where there is none, or where another metric decides the best.
    pub fn best_val_loss(&self) -> Option<f64> {
        self.metrics.best.filter(|_| self.objective.metric == VAL_LOSS).map(|best| best.value)
    }

    /// Whether `other` is of the same run.
    pub fn is_same_run(&self, other: &Checkpoint) -> bool {
        self.identity == other.identity && self.origin == other.origin && self.lineage == other.lineage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepstep_pt::Value;

    fn checkpoint() -> Checkpoint {
        let position = Position { epoch: 2, step: 6, global_step: 6 };
        let identity = Identity::new(7).with("learning_rate", 0.1);
        let plan = Plan { steps_per_epoch: 10, gradient_accumulation_steps: 3, total_steps: 12 };
        let state = State::of_training(Dict::new(), Dict::new(), Value::None);
        let mut checkpoint = Checkpoint::new(identity, plan, position, state);
        checkpoint.metrics = Metrics {
            loss_sum: 12.5,
            num_tokens: 5,
            val_loss: Some(2.0),
            best: Some(Best { position, value: 2.0 }),
            ..Metrics::default()
        };
        checkpoint.pending = true;
        checkpoint.lineage = vec![Ancestor::new(Position::START, Dict::new(), 3)];
        checkpoint
    }

    fn version(checkpoint: &Checkpoint) -> i64 {
        let root = checkpoint.to_value();
        let own = root.as_dict().and_then(|root| root.get("keepstep")?.as_dict()).expect("its own part");
        own.get("format_version").and_then(Value::as_int).expect("a version")
    }

    #[test]
    fn the_page_of_formats_has_every_key() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats.md");
        let page = std::fs::read_to_string(path).expect("the page");
        for checkpoint in std::iter::once(checkpoint()).chain(version_2()) {
            let root = checkpoint.to_value();
            let own = root.as_dict().and_then(|root| root.get("keepstep")?.as_dict()).expect("its own part");
            let (_, part) = page.split_once("## Checkpoint: `keepstep`").expect("its part");
            for (key, _) in own.iter() {
                let key = key.as_str().expect("a name");
                let has = |line: &str| {
                    line.split('|').nth(1).is_some_and(|cell| cell.contains(&format!("`{key}`")))
                };
                assert!(part.lines().any(has), "docs/formats.md lacks keepstep.{key}");
            }
        }
    }

    /// Everything that version 1 cannot hold.
    fn version_2() -> Vec<Checkpoint> {
        let change = |change: &dyn Fn(&mut Checkpoint)| {
            let mut checkpoint = checkpoint();
            change(&mut checkpoint);
            checkpoint
        };
        vec![
            change(&|it| it.identity.seed = 1 << 63),
            change(&|it| it.lineage[0].seed = u64::MAX),
            change(&|it| it.metrics.num_tokens = u64::MAX),
            change(&|it| it.plan.total_steps = u64::MAX),
            change(&|it| it.state = State::new(Dict::new())),
            change(&|it| it.state.insert("scaler", Dict::new()).expect("a name")),
            change(&|it| it.identity = it.identity.clone().with_input("train_set", "abc")),
            change(&|it| it.objective = Objective::max("accuracy")),
            change(&|it| _ = it.metrics.others.insert("accuracy".to_owned(), 0.5)),
            change(&|it| it.stopped = Some("no improvement".to_owned())),
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(version(&checkpoint()), 1);
        for written in version_2().into_iter().chain([checkpoint()]) {
            let read = Checkpoint::from_value(&written.to_value()).expect("a checkpoint");
            assert_eq!(read.to_value(), written.to_value());
            assert!(read.is_same_run(&written));
            assert_eq!(read.metrics, written.metrics);
            assert_eq!((read.stopped, read.objective), (written.stopped, written.objective));
        }
    }

    #[test]
    fn version_2_is_only_for_what_version_1_cannot_hold() {
        for (index, checkpoint) in version_2().iter().enumerate() {
            assert_eq!(version(checkpoint), 2, "{index}");
        }
    }

    #[test]
    fn each_missing_and_each_extra_key_is_refused() {
        for checkpoint in version_2().into_iter().chain([checkpoint()]) {
            let Value::Dict(root) = checkpoint.to_value() else { panic!("a dict") };
            for (key, _) in root.iter() {
                let mut less = Dict::new();
                for (other, value) in root.iter().filter(|(other, _)| *other != key) {
                    less.insert(other.clone(), value.clone());
                }
                let name = key.as_str().expect("a name");
                let allowed = ["train_loss", "best_val_loss"].contains(&name);
                assert_eq!(Checkpoint::from_value(&less.into()).is_ok(), allowed, "{name}");
            }
            for surprise in ["surprise", "surprise_state_dict"] {
                let mut more = root.clone();
                more.insert(surprise, 1_i64);
                let error = Checkpoint::from_value(&more.into()).expect_err("an extra key");
                assert!(error.to_string().contains(surprise), "{error}");
            }
        }
    }

    #[test]
    fn contradicting_numbers_and_newer_formats_are_refused() {
        let mut wrong = checkpoint();
        wrong.position.global_step = 7;
        let error = Checkpoint::from_value(&wrong.to_value()).expect_err("a contradiction");
        assert!(matches!(error, CheckpointError::Position(_)));
        let Value::Dict(mut root) = checkpoint().to_value() else { panic!("a dict") };
        let mut own = root.get("keepstep").and_then(Value::as_dict).expect("its own part").clone();
        own.insert("format_version", FORMAT_VERSION + 1);
        root.insert("keepstep", own);
        let error = Checkpoint::from_value(&root.into()).expect_err("a newer format");
        assert_eq!(error, CheckpointError::Newer { found: FORMAT_VERSION + 1 });
    }
}
