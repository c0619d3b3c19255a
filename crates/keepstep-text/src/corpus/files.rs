//! Finds, orders, reads and hashes the files of a corpus.

use super::DataConfig;
use super::index::Index;
use super::listing::{Listed, list};
use super::stamp::Stamp;
use super::unreadable::Unreadable;
use super::{CorpusError, Progress, Stage, cache_dir};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The number of bytes in one read.
const READ: usize = 1 << 20;

/// One file of the corpus. It was valid UTF-8 when it was hashed.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    stamp: Stamp,
    hash: [u8; 32],
}

impl SourceFile {
    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no file of a corpus is empty")]
    pub fn len(&self) -> u64 {
        self.stamp.size()
    }

    /// Returns the SHA-256 of the content.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    pub(super) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Reads and hashes the whole file. Calls `progress` with the length of each block; an error from it ends the
    /// reading.
    fn read(
        path: PathBuf,
        progress: impl Fn(u64) -> Result<(), CorpusError>,
    ) -> Result<SourceFile, CorpusError> {
        let unreadable = |source| CorpusError::Unreadable { path: path.clone(), source };
        let mut file = File::open(&path).map_err(unreadable)?;
        let stamp = Stamp::from_metadata(&file.metadata().map_err(unreadable)?);
        let mut hash = Sha256::new();
        // The buffer holds the start of a character that the last block cut in two, then the block.
        let (mut buffer, mut left, mut offset) = (vec![0; READ + 4], 0, 0_u64);
        loop {
            let read = match file.read(&mut buffer[left..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(unreadable)?,
            };
            hash.update(&buffer[left..left + read]);
            let len = left + read;
            let valid = match std::str::from_utf8(&buffer[..len]) {
                Ok(_) => len,
                Err(error) if error.error_len().is_none() && read > 0 => error.valid_up_to(),
                Err(error) => {
                    return Err(CorpusError::NotUtf8 { path, at: offset + error.valid_up_to() as u64 });
                }
            };
            if read == 0 {
                break;
            }
            buffer.copy_within(valid..len, 0);
            left = len - valid;
            offset += valid as u64;
            progress(read as u64)?;
        }
        let now = Stamp::from_metadata(&file.metadata().map_err(unreadable)?);
        if offset != stamp.size() || !now.has_content_of(&stamp) {
            return Err(CorpusError::Changed { path });
        }
        Ok(SourceFile { path, stamp, hash: hash.finalize().into() })
    }
}

/// Collects the files of a config: those of each pattern in turn, sorted bytewise by their path below the pattern's
/// fixed folders, then those of the cargo packages. Each file comes once. Empty files are skipped unless the config
/// names them.
///
/// Files that were hashed before and have not changed since are not read again. `note` receives messages for the user,
/// for example that unreadable files were skipped, which the config must allow.
///
/// # Errors
/// Fails if a pattern matches nothing, or if a file cannot be used.
pub fn collect(
    data: &DataConfig,
    progress: &mut Progress<'_>,
    note: &mut dyn FnMut(String),
) -> Result<Vec<SourceFile>, CorpusError> {
    let mut unreadable = Unreadable::new(data);
    let listed = list(data, &mut unreadable, progress)?;
    let progress = Mutex::new(progress);
    let call = |stage, done, total| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress(stage, done, total) { Ok(()) } else { Err(CorpusError::Stopped) }
    };
    let num_files = listed.len() as u64;
    let examine = |file: &Listed| {
        call(Stage::Listing, num_files, num_files)?;
        Ok(stamp(&file.path))
    };
    let examined: Vec<Result<io::Result<Stamp>, CorpusError>> = listed.par_iter().map(examine).collect();
    let (mut paths, mut named, mut stamps) = (Vec::new(), Vec::new(), Vec::new());
    for (file, stamp) in listed.into_iter().zip(examined) {
        match stamp? {
            Ok(stamp) => {
                paths.push(file.path);
                named.push(file.is_named);
                stamps.push(stamp);
            }
            Err(source) if file.is_named => return Err(CorpusError::Unreadable { path: file.path, source }),
            Err(source) => unreadable.leave_out(file.path, source)?,
        }
    }
    let index = cache_dir(data)?.and_then(|folder| Index::open(&folder, &paths).ok());
    let known: Vec<Option<[u8; 32]>> = (stamps.iter().enumerate())
        .map(|(place, stamp)| index.as_ref().and_then(|index| index.get(place, stamp)))
        .collect();
    let unknown = stamps.iter().zip(&known).filter(|(_, known)| known.is_none());
    let total: u64 = unknown.map(|(stamp, _)| stamp.size()).sum();
    let done = AtomicU64::new(0);
    let read = |bytes: u64| {
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        call(Stage::Reading, done, total)
    };
    let file = |place: usize| {
        let path = paths[place].clone();
        match (stamps[place], known[place]) {
            (stamp, _) if stamp.size() == 0 && named[place] => Err(CorpusError::Empty { path }),
            (stamp, _) if stamp.size() == 0 => Ok(None),
            (stamp, Some(hash)) => Ok(Some(SourceFile { path, stamp, hash })),
            (_, None) => SourceFile::read(path, read).map(Some),
        }
    };
    let results: Vec<Result<Option<SourceFile>, CorpusError>> =
        (0..paths.len()).into_par_iter().map(file).collect();
    // Report the first error in the order of the files, independent of the number of threads.
    let mut files = Vec::with_capacity(paths.len());
    for (result, is_named) in results.into_iter().zip(&named) {
        files.push(match result {
            Err(CorpusError::Unreadable { path, source }) if !is_named => {
                unreadable.leave_out(path, source)?;
                None
            }
            result => result?,
        });
    }
    if let Some(index) = index {
        let known = files.iter().enumerate().filter_map(|(place, file)| Some((place, file.as_ref()?)));
        // If the index cannot be written, the files are read again the next time.
        let _ = index.write(known);
    }
    unreadable.note().into_iter().for_each(note);
    Ok(files.into_iter().flatten().collect())
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(Stamp::from_metadata(&metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    fn names(folder: &Path, patterns: &[&str]) -> Result<Vec<String>, CorpusError> {
        let paths = patterns.iter().map(|pattern| folder.join(pattern).display().to_string()).collect();
        let cache_dir = Some(folder.join("cache").display().to_string());
        let files = collect(
            &DataConfig { paths, cache_dir, ..DataConfig::default() },
            &mut |_, _, _| true,
            &mut |_| (),
        )?;
        let name = |file: &SourceFile| file.path().strip_prefix(folder).expect("below").display().to_string();
        Ok(files.iter().map(name).collect())
    }

    #[test]
    fn order_is_that_of_the_patterns_then_of_the_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        for name in ["b/z.txt", "b/a.txt", "a.txt", "B.txt", "b.txt", "b/.hidden.txt", "b/deep/er/x.txt"] {
            fs::create_dir_all(folder.join(name).parent().expect("a parent")).expect("a folder");
            fs::write(folder.join(name), name).expect("a file");
        }
        fs::write(folder.join("empty.txt"), "").expect("a file");
        let found = names(folder, &["**/*.txt"]).expect("files");
        assert_eq!(found, ["B.txt", "a.txt", "b.txt", "b/a.txt", "b/deep/er/x.txt", "b/z.txt"]);
        let found = names(folder, &["b/*.txt", "b.txt", "*.txt"]).expect("files");
        assert_eq!(found, ["b/a.txt", "b/z.txt", "b.txt", "B.txt", "a.txt"]);
        for (pattern, expected) in
            [("*.md", "*.md"), ("x.txt", "x.txt"), ("b", "folder"), ("empty.txt", "empty")]
        {
            let error = names(folder, &[pattern]).expect_err(pattern).to_string();
            assert!(error.contains(expected), "{pattern}: {error}");
        }
    }

    /// Two files, and a cache with their index.
    struct Lab {
        folder: tempfile::TempDir,
        paths: [PathBuf; 2],
        data: DataConfig,
    }

    impl Lab {
        fn new() -> Lab {
            let folder = tempfile::tempdir().expect("a folder");
            let paths = ["a.txt", "b.txt"].map(|name| folder.path().join(name));
            fs::write(&paths[0], "one two three").expect("a file");
            fs::write(&paths[1], "four").expect("a file");
            let data = DataConfig {
                paths: paths.iter().map(|path| path.display().to_string()).collect(),
                cache_dir: Some(folder.path().join("cache").display().to_string()),
                ..DataConfig::default()
            };
            Lab { folder, paths, data }
        }

        /// Collects the files and returns the number of bytes that were read. The hashes must be right either way.
        fn bytes_read(&self) -> u64 {
            let read = AtomicU64::new(0);
            let mut progress = |stage, done, _| {
                if stage == Stage::Reading {
                    read.store(done, Ordering::Relaxed);
                }
                true
            };
            let files = collect(&self.data, &mut progress, &mut |_| ());
            for (file, path) in files.expect("files").iter().zip(&self.paths) {
                let expected: [u8; 32] = Sha256::digest(fs::read(path).expect("it")).into();
                assert_eq!(*file.hash(), expected);
            }
            read.into_inner()
        }
    }

    #[test]
    fn a_file_is_read_once_and_any_change_is_noticed() {
        let lab = Lab::new();
        assert_eq!(lab.bytes_read(), 17);
        assert_eq!(lab.bytes_read(), 17, "their last changes are too young to rely on");
        std::thread::sleep(Duration::from_millis(3_100));
        assert_eq!(lab.bytes_read(), 17);
        assert_eq!(lab.bytes_read(), 0);

        // A damaged index is ignored.
        let index = fs::read_dir(lab.folder.path().join("cache")).expect("a folder").next();
        let index = index.expect("an index").expect("an entry").path();
        let mut bytes = fs::read(&index).expect("its bytes");
        *bytes.last_mut().expect("a byte") ^= 1;
        fs::write(&index, bytes).expect("damaged");
        assert_eq!(lab.bytes_read(), 17);
        assert_eq!(lab.bytes_read(), 0);

        // New content of the same size in the same file, with the old modification time.
        let before = fs::metadata(&lab.paths[0]).expect("a file").modified().expect("a time");
        let file = File::options().write(true).open(&lab.paths[0]).expect("the file");
        file.write_all_at(b"two", 0).expect("an edit");
        file.set_modified(before).expect("its old time");
        assert_eq!(lab.bytes_read(), 13);
        // Another file of the same size under the second file's name.
        let other = lab.folder.path().join("c.txt");
        fs::write(&other, "five").expect("a file");
        fs::rename(&other, &lab.paths[1]).expect("a rename");
        assert_eq!(lab.bytes_read(), 17);
    }

    #[test]
    fn what_is_no_text_is_said_with_its_place() {
        let lab = Lab::new();
        let mut text = "é".repeat(READ).into_bytes();
        let at = text.len();
        for end in [&[0xC3][..], &[0xFF, b'a'], &[b'a', 0xE2, 0x82]] {
            text.truncate(at);
            text.extend(end);
            fs::write(&lab.paths[0], &text).expect("a file");
            let error = collect(&lab.data, &mut |_, _, _| true, &mut |_| ()).expect_err("no text");
            let place = at as u64 + u64::from(end[0] == b'a');
            assert!(matches!(error, CorpusError::NotUtf8 { at, .. } if at == place), "{error}");
        }
        let stopped = collect(&lab.data, &mut |_, _, _| false, &mut |_| ()).expect_err("a stop");
        assert!(matches!(stopped, CorpusError::Stopped), "{stopped}");
        fs::write(&lab.paths[0], "é".repeat(READ)).expect("a file");
        assert_eq!(lab.bytes_read(), 2 * READ as u64 + 4);
    }
}
