//! The file operations that a store uses. Tests replace them to simulate failures.

use super::Lock;
use super::disk_file::DiskFile;
use keepstep_pt::{ReadAt, open_regular};
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A place where a store keeps its files. All errors are those of the operating system.
///
/// # Durability
/// Content is durable only after [`StorageFile::sync`] has returned, and a name only after [`Storage::sync_folder`]
/// has.
pub trait Storage: Debug + Send + Sync {
    /// Creates a folder and its parents. Succeeds if the folder exists.
    ///
    /// # Errors
    /// The folder cannot be created.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Creates an empty file and reserves `len_bytes` bytes for it.
    ///
    /// # Errors
    /// There is too little space, which is known before anything is written; or the name is taken.
    fn create(&self, path: &Path, len_bytes: u64) -> io::Result<Box<dyn StorageFile>>;
    /// Gives a file another name in the same folder, and replaces a file of that name.
    ///
    /// # Errors
    /// The file cannot be renamed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    ///
    /// # Errors
    /// The name is taken, or the file system has no hard links.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The file cannot be removed.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// The folder cannot be synced.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Lists a folder, sorted by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Opens a file for reading.
    ///
    /// # Errors
    /// The file cannot be opened, or the path is not a regular file.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>>;
    /// Reads the metadata of a file or folder.
    ///
    /// # Errors
    /// It does not exist or cannot be read.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Keeps other writers out of a folder until the lock is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process holds the lock.
    fn lock(&self, folder: &Path) -> io::Result<Lock>;
    /// Reports how many bytes this process can still write to the file system of a folder. None if the system does not
    /// report it.
    fn free_bytes(&self, folder: &Path) -> Option<u64>;
    /// Reports how many files this process can still create on the file system of a folder (its free inodes). None if
    /// there is no such limit, or the system does not report it.
    fn free_files(&self, _folder: &Path) -> Option<u64> {
        None
    }
    /// Reports whether a program stands between a folder and its disk (FUSE), as with a mounted Google Drive.
    fn is_fuse(&self, _folder: &Path) -> bool {
        false
    }
}

/// The metadata of a file or folder. It changes when a file is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// Whether it is a folder.
    pub is_folder: bool,
    /// Its size.
    pub len_bytes: u64,
    /// When it was last written, if the system reports it.
    pub modified: Option<SystemTime>,
}

impl Metadata {
    /// Describes a file.
    pub fn file(len_bytes: u64, modified: Option<SystemTime>) -> Metadata {
        Metadata { is_folder: false, len_bytes, modified }
    }

    /// Describes a folder.
    pub fn folder(modified: Option<SystemTime>) -> Metadata {
        Metadata { is_folder: true, len_bytes: 0, modified }
    }
}

/// A file that is being written.
pub trait StorageFile: Write + Send {
    /// Makes the content durable.
    ///
    /// # Errors
    /// After an error the content must never be trusted again, even if a later call succeeds.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct Disk;

impl Storage for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path).map_err(|error| match fs::read_link(path) {
            // The system's error, "File exists", would mislead.
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
            // Free the name for another attempt.
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

    fn is_fuse(&self, folder: &Path) -> bool {
        is_fuse(folder)
    }
}

/// Reserves the space of a file before it is written, if the file system can do that.
///
/// # Errors
/// There is not enough space.
#[cfg(target_os = "linux")]
pub fn preallocate(file: &File, len_bytes: u64) -> io::Result<()> {
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

/// Reserves nothing: only Linux can.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn preallocate(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let status = rustix::fs::statvfs(folder).ok()?;
    status.f_bavail.checked_mul(status.f_frsize)
}

/// Asks the system for the kind of the file system.
#[cfg(target_os = "linux")]
fn is_fuse(folder: &Path) -> bool {
    /// FUSE_SUPER_MAGIC of the kernel.
    const FUSE: i64 = 0x6573_5546;
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    rustix::fs::statfs(folder).is_ok_and(|status| status.f_type as i64 == FUSE)
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn is_fuse(_folder: &Path) -> bool {
    false
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
