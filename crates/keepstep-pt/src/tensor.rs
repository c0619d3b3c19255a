//! A tensor: a strided view of a storage.

use crate::{Dtype, Element, ReadError, Storage};
use std::path::PathBuf;
use std::sync::Arc;

/// A strided view of a storage. Clones are the same tensor.
#[derive(Debug, Clone)]
pub struct Tensor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    storage: Storage,
    /// Counts elements.
    offset: u64,
    shape: Vec<usize>,
    strides: Vec<usize>,
    num_elements: usize,
}

/// A view that reaches outside its storage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a view of shape {shape:?} with strides {strides:?} from element {offset} on reaches outside a storage of {len} elements"
)]
pub struct ViewError {
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: u64,
    len: u64,
}

impl Tensor {
    /// A contiguous view that begins at the storage's first element.
    ///
    /// # Panics
    /// If the storage has fewer elements than the shape.
    pub fn new(storage: Storage, shape: Vec<usize>) -> Tensor {
        let strides = contiguous(&shape);
        match Tensor::strided(storage, 0, shape, strides) {
            Ok(tensor) => tensor,
            Err(error) => panic!("{error}"),
        }
    }

    /// A view with any strides. Offset and strides count elements.
    ///
    /// # Errors
    /// The view reaches outside the storage.
    pub fn strided(
        storage: Storage,
        offset: u64,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Result<Tensor, ViewError> {
        match num_elements(&storage, offset, &shape, &strides) {
            Some(num_elements) => {
                Ok(Tensor(Arc::new(Inner { storage, offset, shape, strides, num_elements })))
            }
            None => Err(ViewError { shape, strides, offset, len: storage.len() }),
        }
    }

    /// A contiguous tensor with a copy of the values.
    ///
    /// # Panics
    /// If there are fewer values than the shape has elements.
    pub fn from_slice<T: Element>(values: &[T], shape: Vec<usize>) -> Tensor {
        Tensor::new(Storage::from_vec(values.to_vec()), shape)
    }

    /// A tensor without dimensions.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::new(Storage::from_vec(vec![value]), Vec::new())
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// The distance between neighbours in each dimension, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.0.strides
    }

    /// The index of the first element in the storage.
    pub fn offset(&self) -> u64 {
        self.0.offset
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.0.storage.dtype()
    }

    /// The storage that this tensor is a view of.
    pub fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// The number of elements. A view may have more than its storage.
    pub fn num_elements(&self) -> usize {
        self.0.num_elements
    }

    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Reads the elements in row-major order.
    ///
    /// # Errors
    /// `T` or the length of `out` differs from the tensor, or the file cannot be read or was cut short.
    pub fn read_into<T: Element>(&self, out: &mut [T]) -> Result<(), ReadError> {
        if T::DTYPE != self.dtype() || out.len() != self.0.num_elements {
            return Err(ReadError::Element {
                found: self.dtype(),
                num_elements: self.0.num_elements,
                expected: format!("{} of {}", T::DTYPE, out.len()),
            });
        }
        self.read_bytes(bytemuck::cast_slice_mut(out))
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// The same errors as [`Tensor::read_into`]. Also refuses a view that repeats elements until it is much larger than
    /// its file.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, ReadError> {
        self.check_copy()?;
        let mut values = vec![T::zeroed(); self.0.num_elements];
        self.read_into(&mut values)?;
        Ok(values)
    }

    /// The bytes of the elements in row-major order, little-endian.
    ///
    /// # Errors
    /// The same errors as [`Tensor::to_vec`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReadError> {
        self.check_copy()?;
        let mut bytes = vec![0; self.0.num_elements * self.dtype().size()];
        self.read_bytes(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads the bytes of the elements in row-major order, little-endian.
    ///
    /// # Errors
    /// `out` has another length, or the file cannot be read or was cut short.
    pub fn read_bytes_into(&self, out: &mut [u8]) -> Result<(), ReadError> {
        if out.len() != self.0.num_elements * self.dtype().size() {
            return Err(ReadError::Element {
                found: self.dtype(),
                num_elements: self.0.num_elements,
                expected: format!("{} bytes", out.len()),
            });
        }
        self.read_bytes(out)
    }

    fn check_copy(&self) -> Result<(), ReadError> {
        let span = if self.is_contiguous() { 0 } else { self.span_elements() };
        let bytes = (self.0.num_elements as u64)
            .checked_add(span as u64)
            .and_then(|elements| elements.checked_mul(self.dtype().size() as u64));
        if bytes.is_none_or(|bytes| bytes > self.0.storage.spare_bytes()) {
            return Err(ReadError::Element {
                found: self.dtype(),
                num_elements: self.0.num_elements,
                expected: "a view that takes no more memory than its file may".to_owned(),
            });
        }
        Ok(())
    }

    fn is_contiguous(&self) -> bool {
        self.0.strides == contiguous(&self.0.shape)
    }

    /// The number of elements from the first to the last in the storage.
    fn span_elements(&self) -> usize {
        if self.0.num_elements == 0 {
            return 0;
        }
        let last: usize =
            self.0.shape.iter().zip(&self.0.strides).map(|(size, stride)| (size - 1) * stride).sum();
        last + 1
    }

    fn read_bytes(&self, out: &mut [u8]) -> Result<(), ReadError> {
        let Inner { storage, offset, shape, strides, num_elements } = &*self.0;
        let size = self.dtype().size();
        if *num_elements == 0 {
            return Ok(());
        }
        if self.is_contiguous() {
            return read(storage, out, offset * size as u64);
        }
        // Read the part of the storage that the view touches, then copy element by element.
        let mut span = vec![0; self.span_elements() * size];
        read(storage, &mut span, offset * size as u64)?;
        let mut index = vec![0; shape.len()];
        for element in out.chunks_exact_mut(size) {
            let at: usize = index.iter().zip(strides).map(|(index, stride)| index * stride).sum();
            element.copy_from_slice(&span[at * size..(at + 1) * size]);
            for (index, size) in index.iter_mut().zip(shape).rev() {
                *index += 1;
                if *index < *size {
                    break;
                }
                *index = 0;
            }
        }
        Ok(())
    }
}

impl PartialEq for Tensor {
    /// Compares type, shape and bytes. A tensor that cannot be read equals no tensor.
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype() == other.dtype()
            && self.shape() == other.shape()
            && matches!((self.to_bytes(), other.to_bytes()), (Ok(one), Ok(other)) if one == other)
    }
}

fn read(storage: &Storage, out: &mut [u8], offset: u64) -> Result<(), ReadError> {
    storage.read_exact_at(out, offset).map_err(|(flaw, path)| {
        flaw.at(&path.map_or_else(|| PathBuf::from("(in memory)"), std::path::Path::to_path_buf))
    })
}

/// The strides of a row-major tensor. PyTorch counts a dimension of size 0 as 1.
pub(crate) fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at].saturating_mul(shape[at].max(1));
    }
    strides
}

/// The number of elements, or None where the view reaches outside the storage or its numbers overflow.
fn num_elements(storage: &Storage, offset: u64, shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.len() != strides.len() {
        return None;
    }
    let count = shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size))?;
    count.checked_mul(storage.dtype().size())?;
    let mut last = offset;
    for (&size, &stride) in shape.iter().zip(strides) {
        last = last.checked_add((size.saturating_sub(1) as u64).checked_mul(stride as u64)?)?;
    }
    let inside = if count == 0 { offset <= storage.len() } else { last < storage.len() };
    inside.then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_obeyed() {
        let storage = Storage::from_vec((0..12_i32).collect());
        let transposed = Tensor::strided(storage.clone(), 0, vec![4, 3], vec![1, 4]).expect("a view");
        assert_eq!(transposed.to_vec::<i32>().expect("its values"), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        let every_other = Tensor::strided(storage.clone(), 1, vec![5], vec![2]).expect("a view");
        assert_eq!(every_other.to_vec::<i32>().expect("its values"), [1, 3, 5, 7, 9]);
        let repeated = Tensor::strided(storage, 2, vec![3, 2], vec![0, 1]).expect("a view");
        assert_eq!(repeated.to_vec::<i32>().expect("its values"), [2, 3, 2, 3, 2, 3]);
    }

    #[test]
    fn views_outside_the_storage_and_overflows_are_refused() {
        let storage = Storage::from_vec(vec![0_u8; 6]);
        for (offset, shape, strides) in [
            (1, vec![6], vec![1]),
            (0, vec![2, 3], vec![4, 1]),
            (u64::MAX, vec![1], vec![1]),
            (0, vec![usize::MAX, 2], vec![0, 0]),
            (0, vec![2], vec![usize::MAX]),
            (0, vec![2], vec![]),
            (7, vec![0], vec![1]),
        ] {
            assert!(Tensor::strided(storage.clone(), offset, shape, strides).is_err());
        }
        assert!(Tensor::strided(storage, 6, vec![0, 4], vec![4, 1]).is_ok());
    }

    #[test]
    fn another_type_or_length_is_an_error() {
        let tensor = Tensor::from_slice(&[1.0_f32, 2.0], vec![2]);
        assert!(tensor.read_into(&mut [0.0_f64; 2]).is_err());
        assert!(tensor.read_into(&mut [0.0_f32; 3]).is_err());
        assert!(tensor.read_into(&mut [0.0_f32; 2]).is_ok());
        assert!(tensor.read_bytes_into(&mut [0; 7]).is_err());
        let mut bytes = [0; 8];
        tensor.read_bytes_into(&mut bytes).expect("its bytes");
        assert_eq!(bytes.to_vec(), tensor.to_bytes().expect("its bytes"));
    }
}
