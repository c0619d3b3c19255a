//! `keepstep._core`: the Rust core of the Python package.
//!
//! It knows nothing of torch: `python/keepstep/` turns tensors into addresses and lengths, and this module turns those
//! into files.

mod keys;

use pyo3::prelude::*;

/// The Rust core of keepstep.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::keys::{Order, key, order, words};

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
