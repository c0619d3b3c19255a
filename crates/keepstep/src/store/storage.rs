//! The few file operations that the store is made of: the seam at which tests fail them.

use super::Lock;
use super::disk_file::DiskFile;
use keepstep_pt::{ReadAt, open_regular};
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Where a store keeps its files.
///
/// # Durability
/// Nothing is durable before [`StorageFile::sync`] (the content) and [`Storage::sync_folder`] (the name) have returned.
pub trait Storage: Debug + Send + Sync {
    /// Makes a folder and its parents; no error if it is there.
    ///
    /// # Errors
    /// As the operating system gives them; likewise below.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file with room for `len_bytes`.
    ///
    /// # Errors
    /// No room, before anything is written; or the name is taken.
    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn StorageFile>>;
    /// Gives a file another name in the same folder, replacing what had it.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    ///
    /// # Errors
    /// Also where the file system has no hard links.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// The files of a folder, in the order of their names.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Opens a file for reading.
    ///
    /// # Errors
    /// Also for what is no file.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>>;
    /// What the system says of a file or folder.
    ///
    /// # Errors
    /// The system's.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Keeps other writers out of a folder, as long as the lock lives.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where another process has it.
    fn lock(&self, folder: &Path) -> io::Result<Lock>;
    /// Bytes that this process may still write to the file system of a folder; None where the system does not say.
    fn free_bytes(&self, folder: &Path) -> Option<u64>;
    /// Files that this process may still make on the file system of a folder (its free inodes); None where there is no such
    /// limit, or the system does not report it.
    fn free_files(&self, _folder: &Path) -> Option<u64> {
        None
    }
}

/// What the system says of a file or folder. A file that is replaced has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Whether it is a folder.
    pub is_folder: bool,
    /// Its size.
    pub len_bytes: u64,
    /// When it was last written, where the system says so.
    pub modified: Option<SystemTime>,
}

/// A file that is being written.
pub trait StorageFile: Write + Send {
    /// Makes its content durable.
    ///
    /// # Errors
    /// After one, the content must never be trusted again, even if a later call succeeds.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct Disk;

impl Storage for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path).map_err(|error| match fs::read_link(path) {
            // The system's "File exists" would mislead.
            Ok(target) if !path.exists() => io::Error::new(
                io::ErrorKind::NotFound,
                format!("it is a link to {}, which does not exist (is it mounted?)", target.display()),
            ),
            _ => error,
        })
    }

    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn StorageFile>> {
        let file = File::create_new(path)?;
        if let Err(error) = preallocate(&file, len_bytes) {
            // An attempt that is made again must find the name free.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(Box::new(DiskFile::new(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(open_regular(path)?))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let metadata = fs::metadata(path)?;
        Ok(Metadata {
            is_folder: metadata.is_dir(),
            len_bytes: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }

    fn lock(&self, folder: &Path) -> io::Result<Lock> {
        Lock::acquire(folder)
    }

    fn free_bytes(&self, folder: &Path) -> Option<u64> {
        free_bytes(folder)
    }

    fn free_files(&self, folder: &Path) -> Option<u64> {
        free_files(folder)
    }
}

/// Reserves the room, where the file system can.
#[cfg(target_os = "linux")]
fn preallocate(file: &File, len_bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if len_bytes == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, len_bytes) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn preallocate(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let status = rustix::fs::statvfs(folder).ok()?;
    status.f_bavail.checked_mul(status.f_frsize)
}

/// File systems without a fixed number of inodes report a total of 0.
#[cfg(unix)]
fn free_files(folder: &Path) -> Option<u64> {
    let status = rustix::fs::statvfs(folder).ok()?;
    (status.f_files > 0).then_some(status.f_favail)
}

/// Not known here.
#[cfg(not(unix))]
fn free_files(_folder: &Path) -> Option<u64> {
    None
}

/// Not known here.
#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}
