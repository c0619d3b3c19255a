//! From a config to a trained text-generation model.
//!
//! [`Config`] composes the settings of the crates below, [`trainer::train`] runs a session, [`generate`] writes text,
//! [`hub`] and [`import`] read other programs' weights and checkpoints.
//!
//! ```no_run
//! use keepstep_lm::Config;
//! use keepstep_lm::trainer::{Control, Outcome, Silent, train};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load("my.toml".as_ref(), &[])?;
//! match train(&config, &Control::default(), &mut Silent)? {
//!     Outcome::Finished { .. } => println!("done"),
//!     Outcome::Stopped { .. } => println!("run it again to continue"),
//! }
//! # Ok(())
//! # }
//! ```

mod available_memory;
pub mod config;
pub mod generate;
pub mod hub;
pub mod import;
pub mod trainer;

pub use config::Config;
pub use keepstep_model::train::state_dict::StateDictError;
