//! A file on the disk that is being written. The disk starts writing early parts while later ones are still being
//! produced, which leaves little work for the sync at the end.

use super::StorageFile;
use std::fs::File;
use std::io::{self, Write};

/// Bytes after which writeback starts: smaller than a disk's own buffers, and large enough for one request.
const PART: u64 = 2 << 20;

pub(super) struct DiskFile {
    file: File,
    /// Bytes written, and how many of them writeback has started for.
    written: u64,
    begun: u64,
}

impl DiskFile {
    pub(super) fn new(file: File) -> DiskFile {
        DiskFile { file, written: 0, begun: 0 }
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.written += len as u64;
        if self.written - self.begun >= PART {
            begin_writeback(&self.file, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StorageFile for DiskFile {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Starts writeback. This is a hint: it makes nothing durable, and the later sync reports errors.
#[cfg(target_os = "linux")]
fn begin_writeback(file: &File, offset: u64, len: u64) {
    use rustix::fs::{Advice, fadvise};
    // Linux starts to write the dirty pages of the range, and drops only clean ones.
    let _ = fadvise(file, offset, std::num::NonZeroU64::new(len), Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn begin_writeback(_file: &File, _offset: u64, _len: u64) {}
