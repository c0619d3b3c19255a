//! `keepstep._core`: the Rust core of the Python package.
//!
//! It knows nothing of torch: `python/keepstep/` turns tensors into addresses and lengths, and this module turns those
//! into files.

mod adopt;
mod errors;
mod keys;
mod kills;
mod mersenne;
mod program;
mod remote;
mod run;
mod search;
mod tensor;
mod values;

use pyo3::prelude::*;

/// The Rust core of keepstep.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::adopt::{adopt, branch_from, is_checkpoint};
    #[pymodule_export]
    use super::errors::{Error, LockedError, MismatchError, SaveError, StateError};
    #[pymodule_export]
    use super::keys::{Order, key, keys, order, words};
    #[pymodule_export]
    use super::kills::KillPlan;
    #[pymodule_export]
    use super::mersenne::mersenne_twister;
    #[pymodule_export]
    use super::program::main;
    #[pymodule_export]
    use super::run::{Look, Run, check_storable, look, search_tree, write_pt};
    #[pymodule_export]
    use super::tensor::Tensor;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
