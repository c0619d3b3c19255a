//! Named tensors of a file, in any supported format.

use crate::hub::HubError;
use crate::hub::numbers::{bf16, f16};
use keepstep_pt::{Dict, Dtype, Tensor};

/// A tensor that can be read as float32.
pub(crate) struct Named<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) source: Source<'a>,
}

pub(crate) enum Source<'a> {
    Pt(&'a Tensor),
    /// Little-endian bytes and their type.
    #[cfg(feature = "hub")]
    Safetensors(&'a [u8], safetensors::Dtype),
}

impl Named<'_> {
    /// Reads the values. Types that float32 represents exactly are widened; others are refused.
    pub(crate) fn values(&self) -> Result<Vec<f32>, HubError> {
        let refuse = |dtype: String| HubError::Unmapped {
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
            #[cfg(feature = "hub")]
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

/// Lists the tensors of a state dict.
pub(crate) fn from_dict(dict: &Dict) -> Vec<Named<'_>> {
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
