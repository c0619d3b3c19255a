//! A flat buffer of float32 values that the tensors of a checkpoint can share without a copy.

use std::ops::Deref;
use std::sync::Arc;

/// A flat float32 buffer that a checkpoint can share while it is being written.
///
/// Invariant: shared values never change. While a checkpoint holds this buffer, an update writes to another one.
#[derive(Debug, Clone)]
pub struct SharedBuffer(Arc<Values>);

#[derive(Debug, Clone)]
struct Values(Vec<f32>);

impl SharedBuffer {
    /// Creates a buffer of these values.
    pub fn new(values: Vec<f32>) -> SharedBuffer {
        SharedBuffer(Arc::new(Values(values)))
    }

    /// Allocates a buffer to be written later. The system has already provided its memory. Its values have no meaning.
    pub fn spare(len: usize) -> SharedBuffer {
        SharedBuffer::new(vec![f32::NAN; len])
    }

    /// Reports whether a checkpoint holds the buffer.
    pub fn is_shared(&mut self) -> bool {
        // Unlike reading the count, this also makes the other holder's actions visible to this thread.
        Arc::get_mut(&mut self.0).is_none()
    }

    /// Returns the values, mutable. If the buffer is shared, it is copied first, because a checkpoint that is being
    /// written must not see a later update.
    pub fn get_mut(&mut self) -> &mut [f32] {
        &mut Arc::make_mut(&mut self.0).0
    }

    /// Returns the same bytes for the storage of a checkpoint.
    pub fn share(&self) -> Arc<dyn AsRef<[u8]> + Send + Sync> {
        Arc::clone(&self.0) as _
    }
}

impl Deref for SharedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0.0
    }
}

impl AsRef<[u8]> for Values {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_never_changes() {
        let mut buffer = SharedBuffer::new(vec![1.0, 2.0]);
        let snapshot = buffer.share();
        buffer.get_mut()[0] = 5.0;
        assert_eq!((*snapshot).as_ref(), bytemuck::cast_slice::<f32, u8>(&[1.0, 2.0]));
        assert_eq!(&buffer[..], &[5.0, 2.0]);
    }

    #[test]
    fn an_unshared_buffer_is_changed_in_place() {
        let mut buffer = SharedBuffer::new(vec![1.0; 8]);
        let before = buffer.as_ptr();
        drop(buffer.share());
        buffer.get_mut()[0] = 5.0;
        assert_eq!(before, buffer.as_ptr());
    }
}
