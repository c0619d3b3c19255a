//! The resume core: a training run that continues from the exact step it had reached, whatever computes the gradients.
//!
//! A run is a pure function of (config, corpus, seed), and a checkpoint is that function's value at a position.
//! Whatever depends on *where* the run is (the [`order`] of samples, [`rng`] numbers, the learning rate) is computed
//! from the seed and the [`position`], so that resuming restores nothing but the model, the optimizer and a few running
//! totals. The [`store`] publishes checkpoints so that a crash at any instant loses none, and [`run`] ties it all
//! together.
//!
//! # A complete loop
//!
//! It learns one number from samples, saves every third update, and may be killed at any instant:
//!
//! ```
//! use keepstep::run::{Policy, Run, Sizes, UpdateStats};
//! use keepstep::{State, identity::Identity};
//! use keepstep_pt::{Dict, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let samples: Vec<f32> = (0..8).map(|sample| sample as f32).collect();
//! let identity = Identity::new(1337).with("learning_rate", 0.1);
//! let policy = Policy { save_steps: 3, ..Policy::default() };
//! let mut run = Run::open(folder, identity, Sizes::new(samples.len() as u64, 2), policy)?;
//! let mut weight = [0.0_f32];
//! if let Some((_, checkpoint)) = run.resumed() {
//!     let saved = checkpoint.state.get("model").and_then(|model| model.as_dict()?.get("weight")?.as_tensor());
//!     saved.ok_or("no weight in the checkpoint")?.read_into(&mut weight)?;
//! }
//! while let Some(update) = run.next_update() {
//!     let order = run.order(update.epoch, samples.len() as u64);
//!     for place in update.micro_batches.clone() {
//!         let error = weight[0] - samples[order.sample(place) as usize];
//!         run.check_finite(f64::from(error * error), f64::from(error))?;
//!         weight[0] -= 0.1 * error;
//!         let loss_sum = f64::from(error * error);
//!         run.record_update(&update, UpdateStats::new(loss_sum, 1).with_grad_norm(f64::from(error)));
//!     }
//!     let mut model = Dict::new();
//!     model.insert("weight", Tensor::from_slice(&weight, vec![1]));
//!     run.save_if_due(|| State::new(model))?;
//! }
//! # assert!(folder.join("checkpoint_epoch2_final_global16.pt").exists());
//! # Ok(())
//! # }
//! ```
//!
//! With [`Run::save_if_due_in_background`] the loop continues while the disk works. `.check()` on its result, and on
//! that of [`Run::wait_for_saves`] at the end, reports what has been saved and what has failed.

pub mod branch;
pub mod cadence;
pub mod checkpoint;
mod display;
pub mod identity;
pub mod journal;
pub mod metrics;
pub mod name;
pub mod order;
pub mod position;
pub mod remote;
pub mod rng;
pub mod run;
pub mod settings;
pub mod state;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use checkpoint::{Checkpoint, State};
pub use display::hex;
pub use position::{Plan, Position};
pub use run::Run;

/// The README's example runs too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
