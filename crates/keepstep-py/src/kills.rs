//! The times of kills of `keepstep prove script.py`: those of the program's `prove`.

use pyo3::prelude::*;
use std::time::Duration;

/// Decides how often a proved script is killed, and when.
#[pyclass(module = "keepstep._core")]
pub(crate) struct KillPlan(keepstep_cli::KillPlan);

#[pymethods]
impl KillPlan {
    /// Plans `wanted` kills of runs of `updates` updates, of which the uninterrupted one trained for `lasted` seconds.
    #[new]
    fn new(wanted: u64, updates: u64, lasted: f64, seed: u64) -> KillPlan {
        let lasted = Duration::try_from_secs_f64(lasted).unwrap_or_default();
        KillPlan(keepstep_cli::KillPlan::new(wanted, updates, lasted, seed))
    }

    /// Whether another kill is wanted.
    #[getter]
    fn wants_another(&self) -> bool {
        self.0.wants_another()
    }

    /// The seconds that the next session trains before its kill.
    fn next_instant(&mut self) -> f64 {
        self.0.next_instant().as_secs_f64()
    }

    /// Takes note of a kill. `saved` is the highest global step that the run had saved before it.
    fn killed(&mut self, saved: Option<u64>) {
        self.0.killed(saved);
    }

    /// Kills so far.
    #[getter]
    fn num_kills(&self) -> u64 {
        self.0.num_kills()
    }

    /// Kills after a save that left updates to do.
    #[getter]
    fn num_after_a_save(&self) -> u64 {
        self.0.num_after_a_save()
    }
}
