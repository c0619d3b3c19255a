//! Conformance tests for engines, behind the feature `testing`.

pub(crate) mod cases;
pub mod conformance;
mod reference;
