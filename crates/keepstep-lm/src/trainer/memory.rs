//! The memory that a run takes.

use super::available_memory::{AvailableMemory, available};
use super::error::TrainError;
use super::learner::engine_spec;
use crate::config::{Config, Precision};
use keepstep_model::engine::Engine;
use keepstep_model::gpt2::{CpuEngine, Gpt2Config};

/// The memory that training takes, in bytes. The corpus is mapped, and is none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Parameters.
    pub weights_bytes: u64,
    /// The optimizer's two moments.
    pub moments_bytes: u64,
    /// Gradients: as many buffers as the tree of an update holds at most.
    pub gradients_bytes: u64,
    /// What a checkpoint that is being saved keeps of the state while training goes on.
    pub spare_bytes: u64,
    /// Everything between forward and backward.
    pub activations_bytes: u64,
    /// What this process can still get; None where the system does not report it.
    pub available: Option<AvailableMemory>,
}

impl Memory {
    pub(super) fn new(config: &Config, model: &Gpt2Config) -> Memory {
        // The precision changes no size.
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

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes
            + self.moments_bytes
            + self.gradients_bytes
            + self.spare_bytes
            + self.activations_bytes
    }

    /// Whether less is available, swap not counted.
    pub fn is_too_much(&self) -> bool {
        self.available.is_some_and(|available| available.bytes < self.total_bytes())
    }

    /// Refuses what cannot be allocated, before anything is.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let needed_bytes = self.total_bytes();
        if let Some(available) = self.available.filter(|available| available.with_swap_bytes < needed_bytes) {
            return Err(TrainError::Memory { needed_bytes, available });
        }
        // The system may refuse for other reasons, and an allocation that fails later ends the program without saying what
        // was needed. Memory that nothing touches costs nothing.
        let refused = |_| TrainError::Allocation { needed_bytes };
        let len = usize::try_from(needed_bytes).map_err(|_| TrainError::Allocation { needed_bytes })?;
        Vec::<u8>::new().try_reserve_exact(len).map_err(refused)
    }
}
