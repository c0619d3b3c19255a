//! Training: the loop that ties corpus, engine and run together, and what it tells its observer.

mod error;
mod flat_buffer;
mod learner;
mod observer;
mod session;
mod state_dict;

pub use error::TrainError;
pub use observer::{EvaluationReport, Observer, PlanReport, ResumeReport, Silent, UpdateReport};
pub use session::{Control, Outcome, train};
pub use state_dict::StateDictError;
