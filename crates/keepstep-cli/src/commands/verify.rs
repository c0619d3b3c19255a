//! `keepstep verify`: check every checksum of a checkpoint, or of all the checkpoints of a run.

use super::Failure;
use keepstep_pt::{Checksums, File};
use std::path::{Path, PathBuf};

pub(crate) fn run(path: &Path) -> Result<(), Failure> {
    let files = if path.is_dir() { checkpoints(path)? } else { vec![path.to_path_buf()] };
    if files.is_empty() {
        return Err(Failure::new(1, format!("{}: there is no .pt file in this folder", path.display())));
    }
    let mut damaged = 0;
    for file in &files {
        let found = File::open(file).and_then(|file| file.verify());
        match found {
            Ok(Checksums::Verified) => super::print(&format!("{}: valid\n", file.display()))?,
            Ok(_) => super::print(&format!("{}: not checksummed, nothing can be checked\n", file.display()))?,
            Err(error) => {
                damaged += 1;
                let failure = Failure::of(1, &error);
                super::print(&format!("{}: DAMAGED\n", file.display()))?;
                crate::progress::say(&format!("keepstep: {failure}"));
            }
        }
    }
    match damaged {
        0 => Ok(()),
        1 if files.len() == 1 => Err(Failure::new(1, format!("{} is damaged", path.display()))),
        _ => Err(Failure::new(1, format!("{damaged} of {} files are damaged", files.len()))),
    }
}

fn checkpoints(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error| Failure::new(1, format!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "pt") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
