//! Conformance tests for engines, behind the feature `testing`.

pub mod conformance;
mod reference;
