//! The values that a `.pt` file holds.

use crate::{Dict, Tensor};

/// A Python value that `torch.load(weights_only=True)` accepts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An int of 64 bits.
    Int(i64),
    /// A longer int: two's complement, little-endian.
    BigInt(Vec<u8>),
    /// A float.
    Float(f64),
    /// A string.
    Str(String),
    /// A list.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A dict, in the order of insertion.
    Dict(Dict),
    /// `collections.OrderedDict`.
    OrderedDict(Dict),
    /// A tensor.
    Tensor(Tensor),
    /// `bytes` or `bytearray`. Can be read but not written.
    Bytes(Vec<u8>),
    /// A name such as `torch.float32`. Can be read but not written.
    Global(String),
    /// A call of a known constructor, such as `torch.device("cpu")`. Can be read but not written.
    Object {
        /// The constructor.
        name: String,
        /// Its arguments.
        arguments: Vec<Value>,
    },
}

impl Value {
    /// Whether it is `None`.
    pub fn is_none(&self) -> bool {
        *self == Value::None
    }

    /// The bool, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }

    /// The int, if it is one of 64 bits.
    pub fn as_int(&self) -> Option<i64> {
        if let Value::Int(value) = self { Some(*value) } else { None }
    }

    /// The int, if it is one between 0 and 2^64 - 1.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Int(value) => u64::try_from(*value).ok(),
            Value::BigInt(bytes) => match shortest_int(bytes) {
                [low @ .., 0] if low.len() == 8 => Some(u64::from_le_bytes(low.try_into().ok()?)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The float, if it is one.
    pub fn as_float(&self) -> Option<f64> {
        if let Value::Float(value) = self { Some(*value) } else { None }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(value) = self { Some(value) } else { None }
    }

    /// The items of a list or a tuple.
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(items) | Value::Tuple(items) = self { Some(items) } else { None }
    }

    /// The dict, ordered or not.
    pub fn as_dict(&self) -> Option<&Dict> {
        if let Value::Dict(dict) | Value::OrderedDict(dict) = self { Some(dict) } else { None }
    }

    /// The tensor, if it is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        if let Value::Tensor(tensor) = self { Some(tensor) } else { None }
    }
}

/// An int's two's complement, little-endian, without the bytes at its end that only repeat the sign.
pub(crate) fn shortest_int(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [rest @ .., before, last] = bytes {
        let sign = before & 0x80 != 0;
        if (*last == 0 && !sign) || (*last == 0xff && sign) {
            bytes = &bytes[..rest.len() + 1];
        } else {
            break;
        }
    }
    bytes
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        match i64::try_from(value) {
            Ok(value) => Value::Int(value),
            // One more byte holds the sign.
            Err(_) => Value::BigInt([&value.to_le_bytes()[..], &[0]].concat()),
        }
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::Str(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::Str(value)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::List(items)
    }
}

impl From<Dict> for Value {
    fn from(dict: Dict) -> Value {
        Value::Dict(dict)
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Value {
        Value::Tensor(tensor)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::None, Into::into)
    }
}
