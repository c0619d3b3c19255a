//! In which precision matrix products are computed.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The precision of the linear layers' products and the head's. Everything else, the weights themselves included, is
/// float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// float32 throughout.
    Float32,
    /// Factors rounded to bfloat16, sums in float32: see [`numerics::bf16`](keepstep_numerics::bf16).
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
