//! Training, generic over the model: the optimizer, the schedule, the gradient tree, the training state and its state
//! dicts.

pub mod adamw;
pub mod cpu_engine;
mod double_buffer;
pub mod gradient_tree;
pub mod leaf_losses;
pub mod optimizer_update;
pub mod schedule;
pub mod shared_buffer;
pub mod state_dict;
pub mod train_state;
