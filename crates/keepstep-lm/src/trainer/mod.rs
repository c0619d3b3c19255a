//! Training: the loop that ties corpus, engine and run together, and what it tells its observer.

mod branch;
mod clock;
mod error;
pub(crate) mod groups;
mod learner;
mod observer;
pub(crate) mod prepare;
mod session;
#[cfg(test)]
mod slow_disk;
pub(crate) mod weights;

pub use branch::branch;
pub use error::TrainError;
pub use observer::{EvaluationReport, Observer, PlanReport, ResumeReport, Silent, UpdateReport};
pub use session::{Control, Outcome, train};
