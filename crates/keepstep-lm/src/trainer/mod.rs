//! Training: the loop that ties corpus, engine and run together, and what it tells its observer.

mod branch;
mod clock;
mod error;
mod learner;
mod observer;
mod prepare;
mod session;
mod weights;

pub use branch::branch;
pub use error::TrainError;
pub use observer::{EvaluationReport, Observer, PlanReport, ResumeReport, Silent, UpdateReport};
pub use session::{Control, Outcome, train};
