//! The storage that tensors are views of, as `torch.UntypedStorage`.

use crate::bytes::Bytes;
use crate::entry_bytes::EntryBytes;
use crate::error::Flaw;
use crate::share;
use crate::{Dtype, Element};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Consecutive elements in memory or in a file. Clones are the same storage: a file holds it once.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    data: Data,
    dtype: Dtype,
}

enum Data {
    Memory { bytes: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize> },
    File(Content),
}

/// The bytes of a storage in a file.
#[derive(Clone)]
pub(crate) enum Content {
    /// An entry of an archive.
    Entry(EntryBytes),
    /// A range of a file without checksums.
    Range(Bytes),
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Content::Entry(entry) => entry.len(),
            Content::Range(bytes) => bytes.len,
        }
    }

    fn file(&self) -> &Bytes {
        match self {
            Content::Entry(entry) => entry.file(),
            Content::Range(bytes) => bytes,
        }
    }
}

/// A vector whose bytes can be shared.
struct Typed<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for Typed<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Storage {
    /// Makes a storage from a vector, without a copy.
    pub fn from_vec<T: Element>(values: Vec<T>) -> Storage {
        let range = 0..size_of_val(values.as_slice());
        Storage(Arc::new(Inner {
            data: Data::Memory { bytes: Arc::new(Typed(values)), range },
            dtype: T::DTYPE,
        }))
    }

    /// Makes a storage from a range of shared bytes, without a copy.
    ///
    /// # Panics
    /// If the range lies outside the bytes, or its length is not a multiple of the element size.
    pub fn shared(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>, dtype: Dtype) -> Storage {
        assert!(
            range.start <= range.end && range.end <= (*bytes).as_ref().len(),
            "a range outside the bytes"
        );
        assert!(range.len().is_multiple_of(dtype.size()), "the range is not a whole number of elements");
        Storage(Arc::new(Inner { data: Data::Memory { bytes, range }, dtype }))
    }

    pub(crate) fn in_file(content: Content, dtype: Dtype) -> Storage {
        Storage(Arc::new(Inner { data: Data::File(content), dtype }))
    }

    /// The entry of an archive that holds it, if it is in one.
    pub(crate) fn entry(&self) -> Option<&EntryBytes> {
        if let Data::File(Content::Entry(entry)) = &self.0.data { Some(entry) } else { None }
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.0.dtype
    }

    /// The size in bytes.
    pub fn byte_len(&self) -> u64 {
        match &self.0.data {
            Data::Memory { range, .. } => range.len() as u64,
            Data::File(content) => content.len(),
        }
    }

    /// The number of elements.
    pub fn len(&self) -> u64 {
        self.byte_len() / self.0.dtype.size() as u64
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Distinguishes storages that are alive at the same time.
    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// The bytes, if they are in memory.
    pub(crate) fn memory(&self) -> Option<&[u8]> {
        match &self.0.data {
            Data::Memory { bytes, range } => Some(&(**bytes).as_ref()[range.clone()]),
            Data::File(_) => None,
        }
    }

    /// Fills `out` with the bytes that begin at `offset`. Reading a whole storage of a file compares its checksum.
    pub(crate) fn read_exact_at(
        &self,
        out: &mut [u8],
        offset: u64,
    ) -> Result<(), (Flaw, Option<&std::path::Path>)> {
        match &self.0.data {
            Data::Memory { bytes, range } => {
                let bytes = &(**bytes).as_ref()[range.clone()];
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = start.checked_add(out.len()).and_then(|end| bytes.get(start..end));
                let part = part.ok_or((Flaw::from(io::Error::from(io::ErrorKind::UnexpectedEof)), None))?;
                out.copy_from_slice(part);
                Ok(())
            }
            Data::File(content) => {
                let read = match content {
                    Content::Entry(entry) => entry.read_exact_at(out, offset),
                    Content::Range(bytes) => share::read(bytes, out, offset),
                };
                read.map_err(|flaw| (flaw, Some(content.file().path())))
            }
        }
    }

    /// The most bytes that a copy of a view may take. A view can repeat elements without end.
    pub(crate) fn spare_bytes(&self) -> u64 {
        match &self.0.data {
            Data::Memory { .. } => u64::MAX,
            Data::File(content) => content.file().spare_bytes(),
        }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({} x {})", self.len(), self.dtype())
    }
}
