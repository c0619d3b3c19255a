//! Memory that begins at a cache line. Kernels read it fastest.

/// Numbers in a cache line.
pub(super) const LINE: usize = 16;

#[derive(Debug, Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct CacheLine([f32; LINE]);

/// A buffer of four-byte numbers, aligned to cache lines. It grows and never shrinks.
#[derive(Debug, Default)]
pub struct AlignedBuffer(Vec<CacheLine>);

impl AlignedBuffer {
    /// Creates an empty buffer.
    pub const fn new() -> AlignedBuffer {
        AlignedBuffer(Vec::new())
    }

    /// Makes the buffer at least `len` numbers long. New numbers are zero.
    #[inline]
    pub fn grow(&mut self, len: usize) {
        let lines = len.div_ceil(LINE);
        if self.0.len() < lines {
            self.0.resize(lines, CacheLine([0.0; LINE]));
        }
    }

    /// Returns the length of the buffer: a whole number of cache lines.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len() * LINE
    }

    /// Reports whether the buffer is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the numbers.
    #[inline]
    pub fn as_mut_floats(&mut self) -> &mut [f32] {
        self.as_mut_slice()
    }

    /// Returns the contents as a type of four bytes. Every bit pattern is valid for [`bytemuck::Pod`] types.
    #[inline]
    pub(crate) fn as_mut_slice<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        const { assert!(size_of::<T>() == size_of::<f32>(), "numbers of four bytes") };
        bytemuck::cast_slice_mut(&mut self.0)
    }

    /// Returns the first `len` numbers, after growing to that length.
    #[inline]
    pub(crate) fn grown<T: bytemuck::Pod>(&mut self, len: usize) -> &mut [T] {
        self.grow(len);
        &mut self.as_mut_slice()[..len]
    }
}
