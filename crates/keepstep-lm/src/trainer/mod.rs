//! Training: the loop over corpus, engine and run, and the events that it reports to its observer.

mod branch;
mod clock;
mod control;
mod corpus_record;
mod disk_need;
mod dry_run;
mod error;
pub(crate) mod groups;
mod learner;
mod measure;
mod memory;
mod observer;
pub(crate) mod precision;
pub(crate) mod run_spec;
mod sampler;
mod session;
#[cfg(test)]
mod slow_disk;
mod tensorboard;

pub use crate::available_memory::{AvailableMemory, MemoryLimit};
pub use branch::{branch, branch_keeps};
pub use control::{Control, Outcome, StopReason};
pub use disk_need::{DiskNeed, DiskShortage};
pub use dry_run::{DryRun, Estimate, dry_run};
pub use error::TrainError;
pub use memory::Memory;
pub use observer::{EpochReport, Observer, PlanReport, ResumeReport, Silent};
pub use session::train;
