//! What a `.pt` file is read from.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

/// Bytes that can be read at any place, by many at once: a file, memory, an object far away.
pub trait ReadAt: Debug + Send + Sync {
    /// How many bytes there are.
    ///
    /// # Errors
    /// The source's.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where there are fewer bytes; else the source's.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
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

/// Opens a regular file, and nothing else: to open a FIFO would wait for its writer.
///
/// # Errors
/// The system's, or [`io::ErrorKind::Unsupported`] for another kind of file, saying which.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let metadata = std::fs::metadata(path)?;
    let other = |what| Err(io::Error::new(io::ErrorKind::Unsupported, what));
    if metadata.is_dir() {
        return other("this is a folder, and a .pt file was expected");
    }
    if !metadata.is_file() {
        return other("this is no regular file, and a .pt file was expected");
    }
    File::open(path)
}
