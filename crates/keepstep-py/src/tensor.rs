//! Tensors of Python as views of memory that Python owns: the only unsafe code of the package.

#![allow(unsafe_code, reason = "addresses that Python gives become slices here, and nowhere else")]

use crate::errors::{chain, usage};
use keepstep_pt::{Dtype, Storage};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::sync::Arc;

/// Bytes that a Python object owns.
struct Memory {
    address: usize,
    len: usize,
    /// Keeps the bytes where they are.
    _owner: Py<PyAny>,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: whoever makes a `Tensor` promises that `len` bytes at `address` can be read and do not change as long as
        // `_owner` lives, which this object holds.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.len) }
    }
}

/// A tensor: in memory that a Python object owns, or in a file.
#[pyclass(frozen, module = "keepstep._core")]
pub(crate) struct Tensor(pub(crate) keepstep_pt::Tensor);

#[pymethods]
impl Tensor {
    /// A view of memory: nothing is copied. `num_bytes` bytes at `address` must stay as they are while `owner` lives.
    /// `strides` are in elements.
    #[new]
    fn new(
        dtype: &str,
        shape: Vec<usize>,
        strides: Vec<usize>,
        address: usize,
        num_bytes: usize,
        owner: Py<PyAny>,
    ) -> PyResult<Tensor> {
        let dtype = Dtype::ALL.iter().copied().find(|known| known.name() == dtype);
        let dtype =
            dtype.ok_or_else(|| PyValueError::new_err("a .pt file cannot hold this type of elements"))?;
        if !num_bytes.is_multiple_of(dtype.size()) || (address == 0 && num_bytes > 0) {
            return Err(PyValueError::new_err("the memory is no whole number of elements"));
        }
        let memory = Arc::new(Memory { address, len: num_bytes, _owner: owner });
        let storage = Storage::shared(memory, 0..num_bytes, dtype);
        keepstep_pt::Tensor::strided(storage, 0, shape, strides)
            .map(Tensor)
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// The type of the elements, by PyTorch's name.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.0.dtype().name()
    }

    /// The size of each dimension.
    #[getter]
    fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    /// The strides, in elements, that memory must have for `read_into`: the tensor's own where its elements fill their
    /// memory without gaps, else those of a contiguous tensor.
    #[getter]
    fn strides(&self) -> Vec<usize> {
        if is_dense(&self.0) { self.0.strides().to_vec() } else { contiguous(self.0.shape()) }
    }

    /// Bytes that `read_into` writes.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_elements() * self.0.dtype().size()
    }

    /// Copies the elements to `num_bytes` bytes of memory at `address`, laid out by `strides`. Nobody else may use that
    /// memory meanwhile.
    fn read_into(&self, py: Python<'_>, address: usize, num_bytes: usize) -> PyResult<()> {
        if num_bytes != self.num_bytes() || (address == 0 && num_bytes > 0) {
            return Err(PyValueError::new_err(format!(
                "the tensor has {} bytes, not {num_bytes}",
                self.num_bytes()
            )));
        }
        if num_bytes == 0 {
            return Ok(());
        }
        let tensor = &self.0;
        let result = py.detach(move || {
            // SAFETY: the caller owns `num_bytes` bytes at `address`, and nobody else uses them during this call.
            let out = unsafe { std::slice::from_raw_parts_mut(address as *mut u8, num_bytes) };
            let flat;
            let source = if is_dense(tensor) {
                flat = keepstep_pt::Tensor::strided(
                    tensor.storage().clone(),
                    tensor.offset(),
                    vec![tensor.num_elements()],
                    vec![1],
                );
                match &flat {
                    Ok(flat) => flat,
                    Err(error) => return Err(error.to_string()),
                }
            } else {
                tensor
            };
            source.read_bytes_into(out).map_err(|error| chain(&error))
        });
        result.map_err(usage)
    }

    fn __repr__(&self) -> String {
        format!("Tensor({}, {:?})", self.0.dtype(), self.0.shape())
    }
}

/// Whether the elements fill their part of the storage without gaps and without repeating any.
fn is_dense(tensor: &keepstep_pt::Tensor) -> bool {
    let mut dimensions: Vec<_> =
        tensor.shape().iter().zip(tensor.strides()).filter(|(size, _)| **size != 1).collect();
    if tensor.num_elements() == 0 {
        return false;
    }
    dimensions.sort_by_key(|(_, stride)| **stride);
    let mut expected = 1;
    for (size, stride) in dimensions {
        if *stride != expected {
            return false;
        }
        expected *= size;
    }
    true
}

fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at].saturating_mul(shape[at].max(1));
    }
    strides
}
