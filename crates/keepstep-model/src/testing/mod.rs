//! Conformance tests for engines and models to test with, behind the feature `testing`.

pub(crate) mod cases;
pub mod conformance;
mod reference;

pub use cases::decodable;
