//! Python's objects as values of a `.pt` file, and back.

use crate::errors::StateError;
use crate::tensor::Tensor;
use keepstep_pt::{Dict, Value};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use std::fmt::Write;

/// Deeper nesting than any real state has; it also ends the walk where an object contains itself.
const DEEPEST: usize = 150;

/// Converts builtin objects, and leaves others to `convert(object)`, which gives a `Tensor`, another object to take in
/// its place, or None where it cannot be stored.
pub(crate) struct ToValue<'py> {
    convert: Bound<'py, PyAny>,
    ordered_dict: Bound<'py, PyAny>,
    path: Vec<String>,
}

impl<'py> ToValue<'py> {
    pub(crate) fn new(convert: Bound<'py, PyAny>) -> PyResult<ToValue<'py>> {
        let ordered_dict = convert.py().import("collections")?.getattr("OrderedDict")?;
        Ok(ToValue { convert, ordered_dict, path: Vec::new() })
    }

    /// The value of an object that errors call `name`.
    ///
    /// # Errors
    /// `StateError` names the first place that cannot be stored.
    pub(crate) fn value(&mut self, name: &str, object: &Bound<'py, PyAny>) -> PyResult<Value> {
        self.path = vec![name.to_owned()];
        self.walk(object)
    }

    fn walk(&mut self, object: &Bound<'py, PyAny>) -> PyResult<Value> {
        if object.is_none() {
            return Ok(Value::None);
        }
        if let Ok(value) = object.cast_exact::<PyBool>() {
            return Ok(Value::Bool(value.is_true()));
        }
        if object.is_exact_instance_of::<PyInt>() {
            return int(object);
        }
        if let Ok(value) = object.cast_exact::<PyFloat>() {
            return Ok(Value::Float(value.value()));
        }
        if let Ok(text) = object.cast_exact::<PyString>() {
            return match text.extract::<String>() {
                Ok(text) => Ok(Value::Str(text)),
                Err(_) => Err(self.refuse("a text that is no Unicode")),
            };
        }
        if self.path.len() > DEEPEST {
            return Err(self.refuse("nested too deep, or contains itself"));
        }
        if let Ok(list) = object.cast_exact::<PyList>() {
            return Ok(Value::List(self.items(list.iter())?));
        }
        if let Ok(tuple) = object.cast_exact::<PyTuple>() {
            return Ok(Value::Tuple(self.items(tuple.iter())?));
        }
        if let Ok(dict) = object.cast_exact::<PyDict>() {
            return Ok(Value::Dict(self.dict(dict)?));
        }
        if object.get_type().is(&self.ordered_dict)
            && let Ok(dict) = object.cast::<PyDict>()
        {
            return Ok(Value::OrderedDict(self.dict(dict)?));
        }
        self.other(object)
    }

    fn other(&mut self, object: &Bound<'py, PyAny>) -> PyResult<Value> {
        let converted = self.convert.call1((object,))?;
        if converted.is_none() {
            let kind = object.get_type();
            let name = kind
                .fully_qualified_name()
                .map_or_else(|_| "an unknown object".to_owned(), |it| it.to_string());
            return Err(self.refuse(&name));
        }
        if let Ok(tensor) = converted.cast::<Tensor>() {
            return Ok(Value::Tensor(tensor.get().0.clone()));
        }
        if converted.get_type().is(object.get_type()) {
            return Err(self.refuse("an object that cannot be converted"));
        }
        self.walk(&converted)
    }

    fn items(&mut self, items: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<Vec<Value>> {
        let mut values = Vec::new();
        for (index, item) in items.enumerate() {
            self.path.push(format!("[{index}]"));
            values.push(self.walk(&item)?);
            self.path.pop();
        }
        Ok(values)
    }

    fn dict(&mut self, dict: &Bound<'py, PyDict>) -> PyResult<Dict> {
        let mut values = Dict::new();
        for (key, item) in dict.iter() {
            let text = key.cast_exact::<PyString>().ok().map(|text| text.to_string_lossy().into_owned());
            let step = match &text {
                Some(text) if is_name(text) => format!(".{text}"),
                _ => format!("[{}]", key.repr()?.to_string_lossy()),
            };
            self.path.push(step);
            let key = match text {
                Some(text) => Value::Str(text),
                None => self.key(&key)?,
            };
            let item = self.walk(&item)?;
            self.path.pop();
            values.insert(key, item);
        }
        Ok(values)
    }

    fn key(&mut self, key: &Bound<'py, PyAny>) -> PyResult<Value> {
        let value = self.walk(key)?;
        fn is_plain(value: &Value) -> bool {
            match value {
                Value::None | Value::Bool(_) | Value::Int(_) | Value::BigInt(_) | Value::Str(_) => true,
                Value::Float(value) => !value.is_nan(),
                Value::Tuple(items) => items.iter().all(is_plain),
                _ => false,
            }
        }
        if is_plain(&value) { Ok(value) } else { Err(self.refuse("a key that a checkpoint cannot hold")) }
    }

    fn refuse(&self, what: &str) -> PyErr {
        StateError::new_err(format!(
            "`{}` is {what}, which a checkpoint cannot hold: convert it to int, float, str, list, dict or a tensor, or \
             track the object through keepstep.as_state(get, set)",
            self.path.concat()
        ))
    }
}

/// A tensor's name in a state dict, such as `layers.0.weight`, is shown as it is.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_alphanumeric() || matches!(char, '_' | '.'))
}

fn int(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(value) = object.extract::<i64>() {
        return Ok(Value::Int(value));
    }
    let len = object.call_method0("bit_length")?.extract::<usize>()? / 8 + 1;
    let signed = PyDict::new(object.py());
    signed.set_item("signed", true)?;
    let bytes = object.call_method("to_bytes", (len, "little"), Some(&signed))?;
    Ok(Value::BigInt(bytes.cast::<PyBytes>()?.as_bytes().to_vec()))
}

/// Makes Python's objects of values. A tensor becomes what `tensor(Tensor)` gives for it.
pub(crate) fn to_object<'py>(value: &Value, tensor: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = tensor.py();
    let list =
        |items: &[Value]| items.iter().map(|item| to_object(item, tensor)).collect::<PyResult<Vec<_>>>();
    Ok(match value {
        Value::None => py.None().into_bound(py),
        Value::Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
        Value::Int(value) => value.into_pyobject(py)?.into_any(),
        Value::BigInt(bytes) => {
            let signed = PyDict::new(py);
            signed.set_item("signed", true)?;
            py.get_type::<PyInt>().call_method(
                "from_bytes",
                (PyBytes::new(py, bytes), "little"),
                Some(&signed),
            )?
        }
        Value::Float(value) => PyFloat::new(py, *value).into_any(),
        Value::Str(text) => PyString::new(py, text).into_any(),
        Value::List(items) => PyList::new(py, list(items)?)?.into_any(),
        Value::Tuple(items) => PyTuple::new(py, list(items)?)?.into_any(),
        Value::Dict(dict) => {
            let out = PyDict::new(py);
            fill(&out, dict, tensor)?;
            out.into_any()
        }
        Value::OrderedDict(dict) => {
            let out = py.import("collections")?.getattr("OrderedDict")?.call0()?;
            for (key, item) in dict.iter() {
                out.set_item(to_object(key, tensor)?, to_object(item, tensor)?)?;
            }
            out
        }
        Value::Tensor(view) => tensor.call1((Tensor(view.clone()),))?,
        Value::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
        other => {
            let mut text = String::new();
            let _ = write!(text, "{other:?}");
            return Err(StateError::new_err(format!("the file holds {text}, which cannot be loaded")));
        }
    })
}

fn fill<'py>(out: &Bound<'py, PyDict>, dict: &Dict, tensor: &Bound<'py, PyAny>) -> PyResult<()> {
    for (key, item) in dict.iter() {
        out.set_item(to_object(key, tensor)?, to_object(item, tensor)?)?;
    }
    Ok(())
}
