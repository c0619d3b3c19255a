//! Durations in config files: "90s", "10m", "11h30m".

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration of at least one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan(pub Duration);

impl FromStr for TimeSpan {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<TimeSpan, &'static str> {
        const EXPECTED: &str =
            "expected a duration such as \"90s\", \"10m\", \"11h30m\", \"11:30:00\" or \"1-00:00:00\"";
        if text.contains([':', '-']) {
            return clock(text).map(|seconds| TimeSpan(Duration::from_secs(seconds))).ok_or(EXPECTED);
        }
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

/// Parses a time in the format of SLURM: `HH:MM:SS`, `D-HH`, `D-HH:MM` or `D-HH:MM:SS`. Refuses `11:30`: SLURM reads it
/// as minutes and seconds, people read it as hours and minutes.
fn clock(text: &str) -> Option<u64> {
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(days), rest),
        None => (None, text),
    };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.len() < 7 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u64>().ok()).flatten()
    };
    let parts: Vec<u64> = rest.split(':').map(number).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = match (days, parts.as_slice()) {
        (_, &[hours, minutes, seconds]) => [hours, minutes, seconds],
        (Some(_), &[hours, minutes]) => [hours, minutes, 0],
        (Some(_), &[hours]) => [hours, 0, 0],
        _ => return None,
    };
    let days = days.map_or(Some(0), number)?;
    let total = days * 86_400 + hours * 3_600 + minutes * 60 + seconds;
    (minutes < 60 && seconds < 60 && total > 0).then_some(total)
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
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("11h30m", 41_400),
            ("1d2h", 93_600),
            ("11:30:00", 41_400),
            ("1-00:00:00", 86_400),
            ("2-12", 216_000),
            ("0-01:30", 5_400),
            ("100:00:01", 360_001),
        ] {
            let span: TimeSpan = text.parse().expect("a span");
            assert_eq!(span.0.as_secs(), seconds);
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for text in [
            "",
            "10",
            "m",
            "0s",
            "1.5h",
            "10m5h",
            "-3s",
            "99999999999999999999d",
            "11:30",
            "1:2:3:4",
            "00:00:00",
            "1-",
            "-1:00:00",
            "00:61:00",
            "1-2-3",
            "9999999:00:00",
        ] {
            assert!(text.parse::<TimeSpan>().is_err(), "{text}");
        }
    }
}
