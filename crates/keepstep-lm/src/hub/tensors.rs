//! Named tensors of a file, whatever its format.

use crate::hub::ForeignError;
use keepstep_pt::{Dict, Dtype, Tensor};

/// A tensor that can be read as float32.
pub(crate) struct Named<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) source: Source<'a>,
}

pub(crate) enum Source<'a> {
    Pt(&'a Tensor),
    /// Little-endian bytes and the name of their type.
    Safetensors(&'a [u8], safetensors::Dtype),
}

impl Named<'_> {
    /// The values. Types that float32 holds exactly are widened; others are refused.
    pub(crate) fn values(&self) -> Result<Vec<f32>, ForeignError> {
        let refuse = |dtype: String| ForeignError::Unmapped {
            problems: vec![format!(
                "`{}` is of type {dtype}, and float32, float16 or bfloat16 is needed",
                self.name
            )],
        };
        match &self.source {
            Source::Pt(tensor) => match tensor.dtype() {
                Dtype::F32 => Ok(tensor.to_vec::<f32>()?),
                Dtype::BF16 => Ok(widen(&tensor.to_bytes()?, bf16)),
                Dtype::F16 => Ok(widen(&tensor.to_bytes()?, f16)),
                other => Err(refuse(other.to_string())),
            },
            Source::Safetensors(bytes, dtype) => match dtype {
                safetensors::Dtype::F32 => {
                    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
                }
                safetensors::Dtype::BF16 => Ok(widen(bytes, bf16)),
                safetensors::Dtype::F16 => Ok(widen(bytes, f16)),
                other => Err(refuse(format!("{other:?}"))),
            },
        }
    }
}

/// The tensors of a state dict.
pub(crate) fn of_dict(dict: &Dict) -> Vec<Named<'_>> {
    dict.iter()
        .filter_map(|(key, value)| {
            let (name, tensor) = (key.as_str()?.to_owned(), value.as_tensor()?);
            Some(Named { name, shape: tensor.shape().to_vec(), source: Source::Pt(tensor) })
        })
        .collect()
}

fn widen(bytes: &[u8], one: fn(u16) -> f32) -> Vec<f32> {
    bytes.chunks_exact(2).map(|pair| one(u16::from_le_bytes([pair[0], pair[1]]))).collect()
}

fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// IEEE 754 half precision.
fn f16(bits: u16) -> f32 {
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
}
