//! nanoGPT's checkpoint format: `model`, `optimizer`, `model_args`, `iter_num`, `best_val_loss`, and no epoch.

use keepstep::position::Position;
use keepstep_pt::Dict;

/// Reports whether a file is a checkpoint of nanoGPT.
pub(crate) fn is_nanogpt(root: &Dict) -> bool {
    root.get("iter_num").is_some() && root.get("global_step").is_none() && root.get("epoch").is_none()
}

/// Returns the position after `iter_num` updates in keepstep's order of samples. nanoGPT draws batches at random and
/// does not count epochs.
pub(crate) fn position(iter_num: u64, steps_per_epoch: u64, accumulation: u64) -> Position {
    let per_epoch = steps_per_epoch.div_ceil(accumulation).max(1);
    // A finished epoch is stored as its end, not as the start of the next one.
    let whole = iter_num.saturating_sub(1) / per_epoch;
    let step = ((iter_num - whole * per_epoch).saturating_mul(accumulation)).min(steps_per_epoch);
    Position { epoch: whole + 1, step, global_step: iter_num }
}

/// Describes the assumption about the position, for the user.
pub(crate) fn assumed(position: Position) -> String {
    format!(
        "nanoGPT's checkpoint, taken over with these assumptions: iter_num = {} counts optimizer updates. Its batches were \
         drawn at random, so the run continues as if the updates had followed keepstep's order (epoch {}, step {}). The \
         tokenizer numbers tokens as nanoGPT's data did. GELU is computed by GPT-2's tanh formula; nanoGPT's own has been \
         the exact one since 2023, so losses differ a little at first",
        position.global_step, position.epoch, position.step
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepstep::position::{Length, Plan};

    /// The positions are those of a keepstep run after as many updates.
    #[test]
    fn updates_are_counted_as_a_run_counts_them() {
        for (steps, accumulation) in [(10, 3), (7, 1), (5, 8), (6, 2)] {
            let length = Length { epochs: 4, total_steps: None };
            let plan = Plan::new(steps, accumulation, length, Position::START);
            let mut at = Position::START;
            assert_eq!(position(0, steps, accumulation), at);
            while let Some(update) = plan.next_update(at) {
                at = update.after();
                assert_eq!(position(at.global_step, steps, accumulation), at, "{steps}, {accumulation}");
            }
        }
    }
}
