//! What an update needs beside the gradients: the optimizer, the schedule, the tree of gradients, and the trained state.

pub mod adamw;
pub mod gradient_tree;
pub mod schedule;
pub mod shared_buffer;
pub mod state_dict;
pub mod train_state;
