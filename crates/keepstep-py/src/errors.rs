//! What Python code can catch.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    keepstep,
    Error,
    PyException,
    "What keepstep reports, in one sentence. The base of all its errors."
);
create_exception!(
    keepstep,
    MismatchError,
    Error,
    "The checkpoint belongs to another run: another config, dataset or set of tracked objects."
);
create_exception!(
    keepstep,
    SaveError,
    Error,
    "A checkpoint could not be saved. Every older file is untouched."
);
create_exception!(keepstep, LockedError, Error, "Another process trains into the folder.");
create_exception!(keepstep, StateError, Error, "State that a checkpoint cannot hold, named by its path.");

/// An error and its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    keepstep::store::chain(error)
}

/// The Python exception for what stops a run from opening.
pub(crate) fn run_error(error: keepstep::run::RunError) -> PyErr {
    use keepstep::run::RunError;
    use keepstep::store::StoreError;
    let text = chain(&error);
    if error.is_incompatible() {
        return MismatchError::new_err(text);
    }
    match error {
        RunError::Store(StoreError::Locked { .. }) => LockedError::new_err(text),
        RunError::Store(_) => SaveError::new_err(text),
        _ => Error::new_err(text),
    }
}

/// An error of the loop's use.
pub(crate) fn usage(text: impl Into<String>) -> PyErr {
    Error::new_err(text.into())
}
