//! Reads numbers in files of other programs: Python's ints and floats, and tensors of one element.
//!
//! All numbers of an imported file are read by these functions, so equal values are treated equally wherever they
//! occur. A bool is not a number.

use crate::hub::HubError;
use keepstep_pt::{Dict, Dtype, Tensor, Value};

/// Reads a number.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        Value::Tensor(tensor) => element(tensor),
        _ => None,
    }
}

/// Reads a whole number.
pub(crate) fn count(value: &Value) -> Option<i64> {
    /// The limit below which float64 represents every whole number exactly.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Int(value) => Some(*value),
        Value::Tensor(tensor) if tensor.dtype() == Dtype::I64 && tensor.num_elements() == 1 => {
            tensor.to_vec::<i64>().ok().map(|values| values[0])
        }
        value => number(value)
            .filter(|number| number.fract() == 0.0 && number.abs() < EXACT)
            .map(|number| number as i64),
    }
}

/// Reads a number that a file may omit or set to `None`. NaN and infinities count as omitted.
///
/// # Errors
/// Fails if the key holds something else. Ignoring it could make a worse model the best one.
pub(crate) fn optional_number(dict: &Dict, key: &str) -> Result<Option<f64>, HubError> {
    let Some(value) = dict.get(key).filter(|value| !value.is_none()) else { return Ok(None) };
    match number(value) {
        Some(number) => Ok(Some(number).filter(|number| number.is_finite())),
        None => {
            Err(HubError::Unmapped { problems: vec![format!("`{key}` is {}, not a number", kind(value))] })
        }
    }
}

/// Describes the type of a value in a few words.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::None => "None".to_owned(),
        Value::Bool(_) => "a bool".to_owned(),
        Value::Int(_) | Value::BigInt(_) => "an int".to_owned(),
        Value::Float(value) => format!("{value}"),
        Value::Str(_) => "a string".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Tuple(_) => "a tuple".to_owned(),
        Value::Dict(_) | Value::OrderedDict(_) => "a dict".to_owned(),
        Value::Tensor(tensor) => format!("a {} tensor of shape {:?}", tensor.dtype(), tensor.shape()),
        Value::Global(name) | Value::Object { name, .. } => format!("`{name}`"),
        _ => "something else".to_owned(),
    }
}

fn element(tensor: &Tensor) -> Option<f64> {
    if tensor.num_elements() != 1 {
        return None;
    }
    macro_rules! read {
        ($type:ty) => {
            tensor.to_vec::<$type>().ok().map(|values| values[0] as f64)
        };
    }
    let half = |widen: fn(u16) -> f32| {
        let bytes = tensor.to_bytes().ok()?;
        Some(f64::from(widen(u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]))))
    };
    match tensor.dtype() {
        Dtype::F64 => read!(f64),
        Dtype::F32 => read!(f32),
        Dtype::F16 => half(f16),
        Dtype::BF16 => half(bf16),
        Dtype::I64 => read!(i64),
        Dtype::I32 => read!(i32),
        Dtype::I16 => read!(i16),
        Dtype::I8 => read!(i8),
        Dtype::U8 => read!(u8),
        Dtype::U16 => read!(u16),
        Dtype::U32 => read!(u32),
        Dtype::U64 => read!(u64),
        _ => None,
    }
}

/// Widens bfloat16.
pub(crate) fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Widens IEEE 754 half precision.
pub(crate) fn f16(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    match exponent {
        // Zero and subnormals: fraction * 2^-24.
        0 => f32::from_bits(sign | (fraction as f32 * (1.0 / 16_777_216.0)).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65_504.0),
            (0x0001, 5.960_464_5e-8),
            (0x0400, 6.103_515_6e-5),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(f16(bits).to_bits(), f32::to_bits(value), "{bits:x}");
        }
        assert!(f16(0x7e00).is_nan());
        assert_eq!(bf16(0x3f80), 1.0);
    }

    #[test]
    fn every_form_of_a_number_is_read() {
        let three: [Value; 12] = [
            Value::Int(3),
            Value::Float(3.0),
            Tensor::scalar(3.0_f32).into(),
            Tensor::scalar(3.0_f64).into(),
            Tensor::scalar(3_i64).into(),
            Tensor::scalar(3_i32).into(),
            Tensor::scalar(3_i16).into(),
            Tensor::scalar(3_i8).into(),
            Tensor::scalar(3_u8).into(),
            Tensor::scalar(3_u64).into(),
            Tensor::from_slice(&[3.0_f32], vec![1]).into(),
            Tensor::from_slice(&[3.0_f64], vec![1, 1]).into(),
        ];
        for value in &three {
            assert_eq!((number(value), count(value)), (Some(3.0), Some(3)), "{value:?}");
        }
        let none: [Value; 5] = [
            Value::Bool(true),
            Value::None,
            Value::Str("3".to_owned()),
            Tensor::from_slice(&[3.0_f32, 3.0], vec![2]).into(),
            Value::List(vec![Value::Float(3.0)]),
        ];
        for value in &none {
            assert_eq!((number(value), count(value)), (None, None), "{value:?}");
        }
        assert_eq!(count(&Value::Float(2.5)), None);
        assert_eq!(count(&Tensor::scalar(i64::MAX).into()), Some(i64::MAX));
    }

    #[test]
    fn what_is_not_a_number_is_refused_by_name() {
        let mut dict = Dict::new();
        dict.insert("none", Value::None);
        dict.insert("infinite", f64::INFINITY);
        dict.insert("text", "3.5");
        dict.insert("flag", true);
        for key in ["absent", "none", "infinite"] {
            assert_eq!(optional_number(&dict, key).expect("nothing"), None, "{key}");
        }
        for key in ["text", "flag"] {
            let error = optional_number(&dict, key).expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
