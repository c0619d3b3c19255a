//! The names of checkpoint files.

use crate::position::{Plan, Position};

/// The file name of the best checkpoint so far: the one with the lowest validation loss, unless the loop chose another
/// metric.
pub const BEST_MODEL: &str = "best_model.pt";

/// The names of small files that lie next to a run's checkpoints and travel with them: the tokenizer, the record of the
/// corpus, and what the Python package records of the first session's environment.
pub const COMPANION_FILES: [&str; 3] = ["tokenizer.json", "corpus.sha256", "environment.json"];

/// Makes the file name of the checkpoint at `position`: `checkpoint_epoch{E}_step{S}_global{G}.pt`, or
/// `checkpoint_epoch{E}_final_global{G}.pt` if the epoch is complete.
pub fn checkpoint_name(plan: &Plan, position: Position) -> String {
    let Position { epoch, step, global_step } = position;
    if step == plan.steps_per_epoch {
        format!("checkpoint_epoch{epoch}_final_global{global_step}.pt")
    } else {
        format!("checkpoint_epoch{epoch}_step{step}_global{global_step}.pt")
    }
}

/// The numbers in a file name. The content of the file is authoritative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Name {
    /// The epoch.
    pub epoch: u64,
    /// The step, or None for the end of the epoch.
    pub step: Option<u64>,
    /// The global step.
    pub global_step: u64,
}

impl Name {
    /// Takes the numbers for the name of the checkpoint at `position`.
    pub fn at(plan: &Plan, position: Position) -> Name {
        let step = (position.step != plan.steps_per_epoch).then_some(position.step);
        Name { epoch: position.epoch, step, global_step: position.global_step }
    }

    /// Parses a name. None for a name that [`checkpoint_name`] does not write.
    pub fn parse(name: &str) -> Option<Name> {
        let rest = name.strip_prefix("checkpoint_epoch")?.strip_suffix(".pt")?;
        let (epoch, rest) = rest.split_once('_')?;
        let (step, global_step) = rest.split_once("_global")?;
        let step = match step {
            "final" => None,
            step => Some(number(step.strip_prefix("step")?)?),
        };
        Some(Name { epoch: number(epoch)?, step, global_step: number(global_step)? })
    }
}

/// Parses digits without a sign or leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAN: Plan = Plan { steps_per_epoch: 10_000, gradient_accumulation_steps: 1, total_steps: 30_000 };

    #[test]
    fn as_designed() {
        let position = Position { epoch: 2, step: 5_000, global_step: 15_000 };
        assert_eq!(checkpoint_name(&PLAN, position), "checkpoint_epoch2_step5000_global15000.pt");
        let position = Position { epoch: 2, step: 10_000, global_step: 20_000 };
        assert_eq!(checkpoint_name(&PLAN, position), "checkpoint_epoch2_final_global20000.pt");
    }

    #[test]
    fn other_names_are_not_checkpoints() {
        for name in [
            BEST_MODEL,
            "checkpoint_epoch2_step5000_global15000.pt.tmp",
            "checkpoint_epoch02_step5_global1.pt",
            "checkpoint_epoch2_step+5_global1.pt",
            "checkpoint_epoch2_global1.pt",
            "checkpoint_epoch2_step_global1.pt",
            "checkpoint_epoch99999999999999999999999_step1_global1.pt",
        ] {
            assert_eq!(Name::parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_are_read_back(epoch: u64, step in 0_u64..=10_000, global_step: u64) {
            let name = Name::parse(&checkpoint_name(&PLAN, Position { epoch, step, global_step }));
            let step = (step != 10_000).then_some(step);
            prop_assert_eq!(name, Some(Name { epoch, step, global_step }));
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = Name::parse(&text);
        }
    }
}
