//! Spans of time as people write them: "90s", "10m", "11h30m".

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of time of at least a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan(pub Duration);

impl FromStr for TimeSpan {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<TimeSpan, &'static str> {
        const EXPECTED: &str = "expected a span of time such as \"90s\", \"10m\" or \"11h30m\"";
        let (mut seconds, mut rest) = (0_u64, text);
        for (unit, length) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
            if let Some((number, tail)) = rest.split_once(unit) {
                let number: u64 = number.parse().map_err(|_| EXPECTED)?;
                seconds =
                    number.checked_mul(length).and_then(|part| seconds.checked_add(part)).ok_or(EXPECTED)?;
                rest = tail;
            }
        }
        if rest.is_empty() && seconds > 0 {
            Ok(TimeSpan(Duration::from_secs(seconds)))
        } else {
            Err(EXPECTED)
        }
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_secs();
        for (unit, length) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
            if rest >= length {
                write!(f, "{}{unit}", rest / length)?;
                rest %= length;
            }
        }
        Ok(())
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TimeSpan, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("11h30m", 41_400), ("1d2h", 93_600)] {
            let span: TimeSpan = text.parse().expect("a span");
            assert_eq!(span.0.as_secs(), seconds);
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for text in ["", "10", "m", "0s", "1.5h", "10m5h", "-3s", "99999999999999999999d"] {
            assert!(text.parse::<TimeSpan>().is_err(), "{text}");
        }
    }
}
