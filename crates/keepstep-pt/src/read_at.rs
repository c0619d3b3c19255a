//! The source that a `.pt` file is read from.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Bytes that several threads can read at any offset: a file, memory, or a remote object.
pub trait ReadAt: Debug + Send + Sync {
    /// The number of bytes.
    ///
    /// # Errors
    /// The source reports an error.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Fills `out` with the bytes that begin at `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the source has fewer bytes, or an error of the source.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;

    /// Learns that all of a range will be read soon, from its beginning to its end. A source whose every read is a request
    /// to a server can then read much at a time. Does nothing by default.
    fn will_read(&self, range: Range<u64>) {
        let _ = range;
    }
}

impl ReadAt for File {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    #[cfg(unix)]
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, offset)
    }

    #[cfg(not(unix))]
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek};
        let mut file = self.try_clone()?;
        file.seek(io::SeekFrom::Start(offset))?;
        file.read_exact(out)
    }
}

impl ReadAt for Vec<u8> {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = start.checked_add(out.len()).and_then(|end| self.get(start..end));
        out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Opens a regular file and refuses anything else: opening a FIFO would wait for its writer.
///
/// # Errors
/// An error of the system, or [`io::ErrorKind::Unsupported`] if the path is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let metadata = std::fs::metadata(path)?;
    let other = |what| Err(io::Error::new(io::ErrorKind::Unsupported, what));
    if metadata.is_dir() {
        return other("this is a folder; give the path of a .pt file");
    }
    if !metadata.is_file() {
        return other("this is not a regular file; give the path of a .pt file");
    }
    File::open(path)
}
