//! Conformance tests for engines, behind the feature `testing`.

mod cases;
pub mod conformance;
mod reference;
