//! The precision of a model's matmuls.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The precision in which the matmuls of linear layers and of the head are computed. Everything else is float32, the
/// weights included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Factors and sums in float32.
    Float32,
    /// Factors rounded to bfloat16, sums in float32: see [`bf16`](crate::bf16).
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Float32 => "float32",
            Precision::Bf16 => "bf16",
        })
    }
}
