//! One flat buffer of float32 values that tensors of a checkpoint can share without a copy.

use std::ops::Deref;
use std::sync::Arc;

/// A flat float32 buffer, shared with the checkpoint that is being written.
///
/// Invariant: what is shared never changes. An update writes to another buffer while a checkpoint holds this one.
#[derive(Debug, Clone)]
pub struct SharedBuffer(Arc<Values>);

#[derive(Debug, Clone)]
struct Values(Vec<f32>);

impl SharedBuffer {
    /// A buffer of these values.
    pub fn new(values: Vec<f32>) -> SharedBuffer {
        SharedBuffer(Arc::new(Values(values)))
    }

    /// A buffer to write to later, whose memory the system has given already. Its values mean nothing.
    pub fn spare(len: usize) -> SharedBuffer {
        SharedBuffer::new(vec![f32::NAN; len])
    }

    /// Whether a checkpoint holds it.
    pub fn is_shared(&mut self) -> bool {
        // Unlike the count alone, this makes what the other holder has done visible here.
        Arc::get_mut(&mut self.0).is_none()
    }

    /// The values, to be changed. A buffer that something still shares is copied first, so that a checkpoint in the
    /// making can never see a later update.
    pub fn get_mut(&mut self) -> &mut [f32] {
        &mut Arc::make_mut(&mut self.0).0
    }

    /// The same bytes, as a checkpoint's storage wants them.
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
