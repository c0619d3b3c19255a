//! Comparing a checkpoint with the loop that wants to continue from it.

use super::{Notice, Policy, RunError};
use crate::identity::{Identity, differences};
use crate::position::Plan;
use crate::store::Newest;

/// Refuses a checkpoint of another run.
pub(super) fn compare(
    found: &Newest,
    identity: &Identity,
    plan: &Plan,
    policy: &Policy,
    notes: &mut Vec<Notice>,
) -> Result<(), RunError> {
    let (path, saved) = (found.path.clone(), &found.checkpoint);
    let mut differences = differences(&saved.identity.config, &identity.config);
    if saved.identity.seed != identity.seed && !differences.iter().any(|difference| difference.key == "seed")
    {
        let (saved, configured) = (Some(saved.identity.seed.to_string()), Some(identity.seed.to_string()));
        differences.push(crate::identity::Difference { key: "seed".to_owned(), saved, configured });
    }
    if saved.objective != policy.objective {
        let (saved, configured) = (Some(saved.objective.to_string()), Some(policy.objective.to_string()));
        differences.push(crate::identity::Difference { key: "best".to_owned(), saved, configured });
    }
    if !differences.is_empty() {
        return Err(RunError::Config { path, differences });
    }
    if let Some(difference) = saved.identity.input_difference(identity) {
        return Err(RunError::Input { path, difference });
    }
    if saved.identity.numerics != identity.numerics {
        if !policy.allow_other_numerics {
            let (saved, found) = (saved.identity.numerics, identity.numerics);
            return Err(RunError::Numerics { path, saved, found });
        }
        let (saved, found) = (saved.identity.numerics, identity.numerics);
        notes.push(Notice::OtherNumerics { saved, found });
    }
    let numbers = [
        ("steps_per_epoch", saved.plan.steps_per_epoch, plan.steps_per_epoch),
        (
            "gradient_accumulation_steps",
            saved.plan.gradient_accumulation_steps,
            plan.gradient_accumulation_steps,
        ),
    ];
    for (what, saved, found) in numbers {
        if saved != found {
            return Err(RunError::Plan { path, what, saved, found });
        }
    }
    Ok(())
}
