//! The disk space that a run's checkpoints need.

use super::error::TrainError;
use crate::config::Config;
use keepstep::cadence::Cadence;
use keepstep::position::{Plan, Position};
use keepstep::store::Room;
use std::fmt;

/// The number and size of the checkpoints that a run holds at once, and the free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskNeed {
    /// The size of one checkpoint.
    pub checkpoint_bytes: u64,
    /// The largest number of checkpoints in the folder at once.
    pub files: u64,
    /// The bytes that they need in addition to the current content of the folder.
    pub needed_bytes: u64,
    /// The bytes that can still be written to the folder's file system, or `None` if the system does not report it.
    pub free_bytes: Option<u64>,
    /// The number of files that can still be created there (free inodes), or `None` if there is no limit.
    pub free_files: Option<u64>,
}

impl DiskNeed {
    /// Computes the need of a run that has reached `position`.
    pub(super) fn new(
        config: &Config,
        plan: &Plan,
        position: Position,
        checkpoint_bytes: u64,
        room: Option<Room>,
    ) -> DiskNeed {
        let saves = Cadence::new(config.save_steps, None).saves_after(plan, position);
        // In addition to the newest ones: the best, and the one being written.
        let files = if saves == 0 { 0 } else { (config.max_checkpoints as u64).min(saves) + 2 };
        let stored = room.map_or(0, |room| room.stored_bytes);
        DiskNeed {
            checkpoint_bytes,
            files,
            needed_bytes: checkpoint_bytes.saturating_mul(files).saturating_sub(stored),
            free_bytes: room.map(|room| room.free_bytes),
            free_files: room.and_then(|room| room.free_files),
        }
    }

    /// Reports what is missing if they do not fit. Each save checks again: it takes its space before it writes.
    pub fn shortage(&self) -> Option<DiskShortage> {
        // In addition to the checkpoints: the journal, the lock, the tokenizer and TensorBoard's folder and file.
        let needed_files = self.files + 5;
        if self.files > 0
            && let Some(free_files) = self.free_files.filter(|&free| free < needed_files)
        {
            return Some(DiskShortage::Files { needed_files, free_files });
        }
        let free_bytes = self.free_bytes.filter(|&free| free < self.needed_bytes)?;
        let DiskNeed { checkpoint_bytes, files, needed_bytes, .. } = *self;
        Some(DiskShortage::Bytes { checkpoint_bytes, files, needed_bytes, free_bytes })
    }
}

/// Disk space that a run's checkpoints need and the file system does not have. As text it is one sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskShortage {
    /// The file system can hold too few files.
    Files {
        /// The most files that this run makes.
        needed_files: u64,
        /// Free inodes.
        free_files: u64,
    },
    /// The file system has too few free bytes.
    Bytes {
        /// The size of one checkpoint.
        checkpoint_bytes: u64,
        /// The most checkpoints that the folder holds at once.
        files: u64,
        /// Bytes that they need in addition to what the folder already holds.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
}

impl fmt::Display for DiskShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        match *self {
            DiskShortage::Files { needed_files, free_files } => write!(
                f,
                "THE DISK MAY HAVE NO ROOM FOR THE FILES: its file system can hold {free_files} more files (free inodes), \
                 and this run makes up to {needed_files}"
            ),
            DiskShortage::Bytes { checkpoint_bytes, files, needed_bytes, free_bytes } => write!(
                f,
                "THE DISK MAY BE TOO SMALL: {} are free, and this run's checkpoints need {} more ({files} of about {}): {} \
                 are missing",
                megabytes(free_bytes),
                megabytes(needed_bytes),
                megabytes(checkpoint_bytes),
                megabytes(needed_bytes.saturating_sub(free_bytes)),
            ),
        }
    }
}

/// Refuses a run whose checkpoints are larger than the files that the process may write.
pub(super) fn check_file_size(checkpoint_bytes: u64) -> Result<(), TrainError> {
    match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        Some(limit_bytes) if limit_bytes < checkpoint_bytes => {
            Err(TrainError::FileSizeLimit { checkpoint_bytes, limit_bytes })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_counts() {
        let config = Config { save_steps: 10, max_checkpoints: 3, ..Config::default() };
        let plan = Plan { steps_per_epoch: 100, gradient_accumulation_steps: 1, total_steps: 200 };
        let at = |global_step, room| {
            DiskNeed::new(&config, &plan, Position { global_step, ..Position::START }, 1_000_000, room)
        };
        let room = |free_bytes, stored_bytes| Some(Room::new(free_bytes, stored_bytes, None));
        assert_eq!((at(0, None).files, at(0, None).needed_bytes), (5, 5_000_000));
        assert_eq!(at(0, None).shortage(), None);
        assert_eq!(at(0, room(5_000_000, 0)).shortage(), None);
        assert_eq!(at(0, room(3_000_000, 2_000_000)).shortage(), None);
        let text = at(0, room(2_500_000, 2_000_000)).shortage().expect("too little").to_string();
        assert!(text.contains("2.5 MB are free") && text.contains("0.5 MB are missing"), "{text}");
        assert_eq!(at(200, room(0, 0)).shortage(), None, "nothing is left to do");
        let inodes = |free_files| Some(Room::new(u64::MAX, 0, free_files));
        assert_eq!(at(0, inodes(Some(10))).shortage(), None);
        let text = at(0, inodes(Some(9))).shortage().expect("too few").to_string();
        assert!(text.contains("9 more files") && text.contains("up to 10"), "{text}");
        assert_eq!(at(200, inodes(Some(0))).shortage(), None, "nothing is left to do");
    }
}
