//! Errors of the operating system with the name of the operation that failed.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An operation on a file or folder, and why it failed.
#[derive(Debug)]
struct Failed {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} failed: {}", self.operation, self.path.display(), self.source)
    }
}

// The text includes the cause, because many programs print an `io::Error` without its causes. `source` would repeat it.
impl Error for Failed {}

/// Adds the operation and its path to an error, and keeps the error's kind.
pub(super) fn name<T>(operation: &'static str, path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|source| {
        io::Error::new(source.kind(), Failed { operation, path: path.to_path_buf(), source })
    })
}

/// Reports whether the error means that the file system does not have the operation at all. Some network and FUSE file
/// systems have no locks (ENOLCK, EINVAL, ENOTSUP, ENOSYS) or no fsync of folders (EINVAL, ENOTSUP, ENOSYS).
pub(super) fn is_missing(error: &io::Error) -> bool {
    // The kinds cover EINVAL, ENOTSUP and ENOSYS; ENOLCK has none.
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_and_gets_a_name() {
        let full = || io::Error::from_raw_os_error(28);
        let error = name::<()>("writing", Path::new("a.pt"), Err(full())).expect_err("an error");
        assert_eq!(error.kind(), full().kind());
        assert_eq!(crate::store::chain(&error), format!("writing a.pt failed: {}", full()));
    }

    #[test]
    fn what_a_file_system_does_not_have_is_told_from_what_fails() {
        let is_missing = |error| is_missing(&io::Error::from_raw_os_error(error));
        // EINVAL, ENOLCK, ENOSYS, EOPNOTSUPP; then EIO, ENOSPC, EACCES, EROFS.
        assert_eq!([22, 37, 38, 95].map(is_missing), [true; 4]);
        assert_eq!([5, 28, 13, 30].map(is_missing), [false; 4]);
    }
}
