//! The memory that a run takes.

use super::error::TrainError;
use super::learner::engine_spec;
use crate::available_memory::{AvailableMemory, available};
use crate::config::{Config, Precision};
use keepstep_model::engine::Engine;
use keepstep_model::gpt2::{CpuEngine, Gpt2Config};

/// The memory that training takes, in bytes. Cached tokens are read from the disk and not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Parameters.
    pub weights_bytes: u64,
    /// The optimizer's two moments.
    pub moments_bytes: u64,
    /// Gradients: the largest number of buffers that an update's gradient tree holds.
    pub gradients_bytes: u64,
    /// The second copy of the state that lets training continue while a checkpoint is being saved.
    pub spare_bytes: u64,
    /// Activations and scratch buffers.
    pub activations_bytes: u64,
    /// The memory that this process can still get, or `None` if the system does not report it.
    pub available: Option<AvailableMemory>,
}

impl Memory {
    pub(super) fn new(config: &Config, model: &Gpt2Config) -> Memory {
        // The precision affects no size.
        let held = CpuEngine::memory(&engine_spec(config, model, Precision::Float32));
        Memory {
            weights_bytes: held.weights_bytes,
            moments_bytes: held.moments_bytes,
            gradients_bytes: held.gradients_bytes,
            spare_bytes: held.spare_bytes,
            activations_bytes: held.activations_bytes,
            available: available(),
        }
    }

    /// Returns the sum of all parts.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes
            + self.moments_bytes
            + self.gradients_bytes
            + self.spare_bytes
            + self.activations_bytes
    }

    /// Reports whether more is needed than is available without swap.
    pub fn is_too_much(&self) -> bool {
        self.available.is_some_and(|available| available.bytes < self.total_bytes())
    }

    /// Fails if the memory cannot be allocated. Called before anything is allocated.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let needed_bytes = self.total_bytes();
        if let Some(available) = self.available.filter(|available| available.with_swap_bytes < needed_bytes) {
            return Err(TrainError::Memory { needed_bytes, available });
        }
        // The system may refuse for other reasons, and an allocation that fails later ends the program without stating
        // how much memory was needed. Memory that is never touched costs nothing.
        let refused = |_| TrainError::Allocation { needed_bytes };
        let len = usize::try_from(needed_bytes).map_err(|_| TrainError::Allocation { needed_bytes })?;
        Vec::<u8>::new().try_reserve_exact(len).map_err(refused)
    }
}
