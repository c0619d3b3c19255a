//! Numbers, times and values as text.

pub(crate) use keepstep::journal::utc;
use keepstep_pt::{Tensor, Value};
use std::time::Duration;

/// A loss, with four digits after the point.
pub(crate) fn loss(loss: f64) -> String {
    format!("{loss:.4}")
}

/// A size in millions of bytes.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// `mm:ss`, or `h:mm:ss` from an hour on.
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes:02}:{seconds:02}")
    }
}

/// The age of a file in its largest whole unit: `12s`, `5m`, `3h`, `2d`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Scientific notation like C's `%.2e`, with at least two digits in the exponent.
pub(crate) fn scientific(value: f64) -> String {
    let text = format!("{value:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// Quotes a text for the shell if it needs quotes.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=./_-,:+@%".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// A value on one line. Long strings are cut.
pub(crate) fn scalar(value: &Value) -> String {
    const LONGEST: usize = 80;
    match value {
        Value::None => "None".to_owned(),
        Value::Bool(value) => if *value { "True" } else { "False" }.to_owned(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::Str(value) if value.chars().count() > LONGEST => {
            let start: String = value.chars().take(LONGEST).collect();
            format!("{start:?}… ({} bytes)", value.len())
        }
        Value::Str(value) => {
            if value.chars().any(char::is_control) {
                format!("{value:?}")
            } else {
                value.clone()
            }
        }
        Value::List(items) => format!("[{}]", joined(items)),
        Value::Tuple(items) => format!("({})", joined(items)),
        Value::Tensor(tensor) => tensor_line(tensor),
        other => format!("{other:?}"),
    }
}

fn joined(items: &[Value]) -> String {
    const MOST: usize = 16;
    let mut parts: Vec<String> = items.iter().take(MOST).map(scalar).collect();
    if items.len() > MOST {
        parts.push(format!("… {} more", items.len() - MOST));
    }
    parts.join(", ")
}

fn tensor_line(tensor: &Tensor) -> String {
    let shape: Vec<String> = tensor.shape().iter().map(usize::to_string).collect();
    format!("{} [{}], {} bytes", tensor.dtype(), shape.join(", "), num_bytes(tensor))
}

/// The bytes of a tensor's elements. A view that repeats elements counts each.
pub(crate) fn num_bytes(tensor: &Tensor) -> u64 {
    tensor.shape().iter().map(|&size| size as u64).product::<u64>() * tensor.dtype().size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("optimizer.learning_rate=1e-4"), "optimizer.learning_rate=1e-4");
        assert_eq!(quoted("a=[1, 2]"), "'a=[1, 2]'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }

    #[test]
    fn dates() {
        assert_eq!(utc(0.0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400.0), "2000-02-29 00:00:00");
        assert_eq!(utc(1_700_000_000.5), "2023-11-14 22:13:20");
    }

    #[test]
    fn times_and_rates() {
        assert_eq!(clock(Duration::from_secs(3_725)), "1:02:05");
        assert_eq!(scientific(5e-4), "5.00e-04");
        assert_eq!(scientific(0.0), "0.00e+00");
        assert_eq!(scientific(1.5e-12), "1.50e-12");
    }
}
