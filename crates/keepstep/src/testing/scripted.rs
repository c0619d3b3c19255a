//! Disks that fail, hang or lack something, as a test scripts it.

use super::{Hooked, Hooks};
use crate::store::StorageFile;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const EIO: i32 = 5;

fn os_error(error: i32) -> io::Error {
    io::Error::from_raw_os_error(error)
}

/// Fails when the countdown has run out. Panics if the store trusts a file whose sync has failed.
#[derive(Debug, Clone)]
pub struct Faulty {
    countdown: Arc<AtomicI64>,
    forever: bool,
    error: i32,
    short: bool,
    distrusted: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Faulty {
    /// Lets `fails_at` operations succeed, and fails the next one with this error of the operating system.
    pub fn new(fails_at: i64, error: i32) -> Faulty {
        Faulty {
            countdown: Arc::new(AtomicI64::new(fails_at)),
            forever: false,
            error,
            short: false,
            distrusted: Arc::default(),
        }
    }

    /// Fails all later operations too, as after a crash.
    pub fn forever(self, forever: bool) -> Faulty {
        Faulty { forever, ..self }
    }

    /// Lets each write take only a third of its bytes.
    pub fn short_writes(self, short: bool) -> Faulty {
        Faulty { short, ..self }
    }

    /// Reports whether an operation has failed.
    pub fn has_failed(&self) -> bool {
        self.countdown.load(Ordering::SeqCst) < 0
    }

    fn gate(&self) -> io::Result<()> {
        let left = self.countdown.fetch_sub(1, Ordering::SeqCst);
        if left == 0 || left < 0 && self.forever { Err(os_error(self.error)) } else { Ok(()) }
    }

    fn distrusted(&self, path: &Path) -> bool {
        self.distrusted.lock().expect("a lock").contains(path)
    }
}

impl Hooks for Faulty {
    fn before(&self, _: &Path) -> io::Result<()> {
        self.gate()
    }

    fn before_create(&self, path: &Path) -> io::Result<()> {
        assert!(!self.distrusted(path), "{} is written once more", path.display());
        Ok(())
    }

    fn before_rename(&self, from: &Path) {
        assert!(!self.distrusted(from), "{} is trusted", from.display());
    }

    fn write(&self, file: &mut dyn StorageFile, _: &Path, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.gate() {
            // A failed write may still put a part on the disk; an interrupted one does not.
            if error.kind() != io::ErrorKind::Interrupted {
                let _ = file.write(&bytes[..bytes.len() / 2]);
            }
            return Err(error);
        }
        let len = if self.short { bytes.len().div_ceil(3) } else { bytes.len() };
        file.write(&bytes[..len])
    }

    fn sync(&self, file: &mut dyn StorageFile, path: &Path) -> io::Result<()> {
        assert!(!self.distrusted(path), "{} is synced once more", path.display());
        if let Err(error) = self.gate() {
            // An interrupted sync may be repeated.
            if error.kind() != io::ErrorKind::Interrupted {
                self.distrusted.lock().expect("a lock").insert(path.to_path_buf());
            }
            return Err(error);
        }
        file.sync()
    }
}

/// A file system without fsync of folders, or without free inodes.
#[derive(Debug, Clone, Default)]
pub struct Lacking {
    /// The error of syncing a folder.
    pub folder_sync: Option<i32>,
    /// The error of a new file, and the free inodes.
    pub create: Option<(i32, u64)>,
}

impl Hooks for Lacking {
    fn before_create(&self, _: &Path) -> io::Result<()> {
        self.create.map_or(Ok(()), |(error, _)| Err(os_error(error)))
    }

    fn before_folder_sync(&self, _: &Path) -> io::Result<()> {
        self.folder_sync.map_or(Ok(()), |error| Err(os_error(error)))
    }

    fn free_files(&self, _: &Path) -> Option<u64> {
        self.create.map(|(_, free_files)| free_files)
    }
}

/// What syncs of files do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// They succeed.
    Work,
    /// They return only after the switch is set to something else.
    Hang,
    /// They fail.
    Fail,
    /// They panic.
    Panic,
}

/// A disk on which a test decides what syncs of files do. Clones share the switch.
#[derive(Debug, Clone)]
pub struct SyncSwitch(Arc<(Mutex<Syncs>, Condvar)>);

impl SyncSwitch {
    /// Starts with these syncs.
    pub fn new(syncs: Syncs) -> SyncSwitch {
        SyncSwitch(Arc::new((Mutex::new(syncs), Condvar::new())))
    }

    /// Changes what syncs do, and wakes those that hang.
    pub fn set(&self, syncs: Syncs) {
        *self.0.0.lock().expect("a lock") = syncs;
        self.0.1.notify_all();
    }

    /// Changes it from another thread, when the caller is probably waiting for a sync.
    pub fn set_soon(&self, syncs: Syncs) {
        let switch = self.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(250));
            switch.set(syncs);
        });
    }

    /// Returns the storage that obeys the switch.
    pub fn storage(&self) -> Arc<Hooked<SyncSwitch>> {
        Arc::new(Hooked(self.clone()))
    }
}

impl Hooks for SyncSwitch {
    fn sync(&self, file: &mut dyn StorageFile, _: &Path) -> io::Result<()> {
        let (syncs, changed) = &*self.0;
        let syncs = syncs.lock().expect("a lock");
        let syncs = *changed.wait_while(syncs, |syncs| *syncs == Syncs::Hang).expect("a lock");
        match syncs {
            Syncs::Fail => Err(os_error(EIO)),
            Syncs::Panic => panic!("the writer breaks"),
            Syncs::Work | Syncs::Hang => file.sync(),
        }
    }
}

/// A disk on which each sync of a file takes time, and the first few fail. Clones share the count.
#[derive(Debug, Clone)]
pub struct SlowDisk {
    sync: Duration,
    failures: Arc<AtomicU64>,
}

impl SlowDisk {
    /// Makes the disk.
    pub fn new(sync: Duration, failures: u64) -> SlowDisk {
        SlowDisk { sync, failures: Arc::new(AtomicU64::new(failures)) }
    }
}

impl Hooks for SlowDisk {
    fn sync(&self, file: &mut dyn StorageFile, _: &Path) -> io::Result<()> {
        std::thread::sleep(self.sync);
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(os_error(EIO));
        }
        file.sync()
    }
}

/// A disk that may be full when a file is created. Panics if it is found full later.
#[derive(Debug, Clone, Copy)]
pub struct Watched;

impl Hooks for Watched {
    fn write(&self, file: &mut dyn StorageFile, _: &Path, bytes: &[u8]) -> io::Result<usize> {
        Ok(file.write(bytes).expect("the room was there before anything was written"))
    }
}
