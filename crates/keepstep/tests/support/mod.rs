//! Tiny checkpoints, saved as a run saves them.

#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own part")]

pub mod random;

use keepstep::cadence::Cadence;
use keepstep::checkpoint::{Best, Checkpoint, State};
use keepstep::identity::Identity;
use keepstep::name::{BEST_MODEL, checkpoint_name};
use keepstep::position::{Plan, Position};
use keepstep::store::{Retention, Store, StoreError};
use keepstep_pt::{Archive, Dict, Tensor, Value};

/// The last position is the end of the only epoch.
pub const PLAN: Plan =
    Plan { steps_per_epoch: 1 << 40, gradient_accumulation_steps: 1, total_steps: 1 << 40 };

pub fn position(global_step: u64) -> Position {
    Position { epoch: 1, step: global_step, global_step }
}

/// The checkpoint at a step. The branch makes others of the same step; `num_elements` sets the size.
pub fn checkpoint(global_step: u64, branch: u64, num_elements: usize) -> Checkpoint {
    let mut model = Dict::new();
    let value = (global_step % 10_000 * 1000 + branch) as f32;
    let values: Vec<f32> = (0..num_elements).map(|index| value + index as f32).collect();
    model.insert("weight", Tensor::from_slice(&values, vec![num_elements]));
    let best = Some(Best::new(position(global_step), 1.0 / (global_step + 1) as f64));
    let state = State::of_training(model, Value::None, Value::None);
    let mut checkpoint = Checkpoint::new(Identity::new(branch), PLAN, position(global_step), state);
    checkpoint.metrics.best = best;
    checkpoint
}

pub fn archive(global_step: u64, branch: u64, num_elements: usize) -> Archive {
    Archive::new(&checkpoint(global_step, branch, num_elements).to_value())
}

pub fn name(global_step: u64) -> String {
    checkpoint_name(&PLAN, position(global_step))
}

/// What the archive writes.
pub fn bytes(archive: &Archive) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive.write_to(&mut bytes).expect("memory takes everything");
    bytes
}

pub fn retention(max_checkpoints: usize, save_steps: u64) -> Retention {
    Retention::new(max_checkpoints, Cadence::new(save_steps, None), PLAN.total_steps)
}

/// One save, in the order in which a run makes it: the best, the checkpoint, and only then what is no longer kept.
pub fn save(
    store: &mut Store,
    global_step: u64,
    archive: &Archive,
    is_best: bool,
    retention: &Retention,
) -> Result<(), StoreError> {
    let name = name(global_step);
    if is_best {
        store.publish(BEST_MODEL, archive)?;
        store.publish_link(&name, BEST_MODEL)?;
    } else {
        store.publish(&name, archive)?;
    }
    if global_step.is_multiple_of(retention.cadence.save_steps) || global_step == retention.end {
        store.rotate(retention, global_step)
    } else {
        store.rotate(&Retention::new(usize::MAX, retention.cadence, retention.end), global_step)
    }
}
