//! The precisions that a run may compute in.

use keepstep_numerics::precision::Precision;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The allowed precisions of a run, the preferred one first. Never empty, no duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precisions(Vec<Precision>);

impl Precisions {
    /// The preferred precision: the first.
    pub fn preferred(&self) -> Precision {
        self.0.first().copied().unwrap_or(Precision::Float32)
    }

    /// All allowed precisions, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = Precision> + '_ {
        self.0.iter().copied()
    }
}

impl From<Precision> for Precisions {
    fn from(precision: Precision) -> Precisions {
        Precisions(vec![precision])
    }
}

/// Formats them as in the config.
impl fmt::Display for Precisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.iter().map(|precision| format!("\"{precision}\"")).collect();
        match quoted.as_slice() {
            [one] => f.write_str(one),
            several => write!(f, "[{}]", several.join(", ")),
        }
    }
}

impl Serialize for Precisions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Precisions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Precisions, D::Error> {
        const EXPECTED: &str = "expected \"float32\", \"bf16\" or a list of both, the preferred one first: [\"bf16\", \"float32\"]";
        let unexpected = || serde::de::Error::custom(EXPECTED);
        let precisions: Vec<Precision> =
            match toml::Value::deserialize(deserializer).map_err(|_| unexpected())? {
                list @ toml::Value::Array(_) => list.try_into().map_err(|_| unexpected())?,
                one => vec![one.try_into().map_err(|_| unexpected())?],
            };
        let is_repeated = (1..precisions.len()).any(|index| precisions[..index].contains(&precisions[index]));
        if precisions.is_empty() || is_repeated { Err(unexpected()) } else { Ok(Precisions(precisions)) }
    }
}
