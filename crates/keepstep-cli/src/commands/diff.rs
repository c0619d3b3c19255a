//! `keepstep diff`: where two checkpoints differ, value by value.

use crate::failure::Failure;
use crate::format::scalar;
use crate::output;
use keepstep_pt::{Dict, Dtype, File, ReadError, Tensor, Value};
use std::path::Path;

pub(crate) fn run(left: &Path, right: &Path) -> Result<bool, Failure> {
    let (one, other) = (File::open(left)?, File::open(right)?);
    one.verify()?;
    other.verify()?;
    let mut differences = Vec::new();
    compare(&mut differences, "", one.value(), other.value())?;
    for difference in &differences {
        output::print(&format!("{difference}\n"))?;
    }
    if differences.is_empty() {
        output::print("no difference\n")?;
    }
    Ok(differences.is_empty())
}

fn compare(out: &mut Vec<String>, place: &str, left: &Value, right: &Value) -> Result<(), ReadError> {
    match (left, right) {
        (Value::Dict(left), Value::Dict(right)) | (Value::OrderedDict(left), Value::OrderedDict(right)) => {
            compare_dicts(out, place, left, right)
        }
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right))
            if left.len() == right.len() =>
        {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                compare(out, &format!("{place}[{index}]"), left, right)?;
            }
            Ok(())
        }
        (Value::Tensor(left), Value::Tensor(right)) => compare_tensors(out, place, left, right),
        // By bits: NaN equals NaN, and 0.0 differs from -0.0.
        (Value::Float(left), Value::Float(right)) if left.to_bits() == right.to_bits() => Ok(()),
        (Value::Float(_), Value::Float(_)) => {
            out.push(format!("{place}: {} | {}", scalar(left), scalar(right)));
            Ok(())
        }
        _ => {
            if left != right {
                out.push(format!("{place}: {} | {}", scalar(left), scalar(right)));
            }
            Ok(())
        }
    }
}

fn compare_dicts(out: &mut Vec<String>, place: &str, left: &Dict, right: &Dict) -> Result<(), ReadError> {
    let at = |key: &Value| if place.is_empty() { scalar(key) } else { format!("{place}.{}", scalar(key)) };
    let find = |dict: &Dict, key: &Value| {
        dict.iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone())
    };
    for (key, value) in left.iter() {
        match find(right, key) {
            Some(other) => compare(out, &at(key), value, &other)?,
            None => out.push(format!("{}: only in the first", at(key))),
        }
    }
    for (key, _) in right.iter() {
        if find(left, key).is_none() {
            out.push(format!("{}: only in the second", at(key)));
        }
    }
    Ok(())
}

fn compare_tensors(
    out: &mut Vec<String>,
    place: &str,
    left: &Tensor,
    right: &Tensor,
) -> Result<(), ReadError> {
    if left.dtype() != right.dtype() || left.shape() != right.shape() {
        let (left, right) = (Value::Tensor(left.clone()), Value::Tensor(right.clone()));
        out.push(format!("{place}: {} | {}", scalar(&left), scalar(&right)));
        return Ok(());
    }
    let (one, other) = (left.to_bytes()?, right.to_bytes()?);
    if one == other {
        return Ok(());
    }
    let size = left.dtype().size().max(1);
    let differing = one.chunks(size).zip(other.chunks(size)).filter(|(one, other)| one != other).count();
    let mut text = format!("{place}: {differing} of {} elements differ", one.len() / size);
    if left.dtype() == Dtype::F32 {
        let value = |bytes: &[u8]| bytes.try_into().map_or(f32::NAN, f32::from_le_bytes);
        let largest = one
            .chunks(size)
            .zip(other.chunks(size))
            .map(|(one, other)| (f64::from(value(one)) - f64::from(value(other))).abs())
            .fold(0.0, f64::max);
        text.push_str(&format!(", by {largest:.3e} at most"));
    }
    out.push(text);
    Ok(())
}
