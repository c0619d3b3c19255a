//! `keepstep verify`: compare the checksums of a checkpoint, or of all checkpoints of a run.

use crate::checkpoints::pt_files;
use crate::failure::Failure;
use crate::output;
use keepstep_pt::{Checksums, File};
use std::path::Path;

pub(crate) fn run(path: &Path) -> Result<(), Failure> {
    if let Some(url) = crate::checkpoints::url(path) {
        return crate::remote::verify(url);
    }
    let files = if path.is_dir() { pt_files(path)? } else { vec![path.to_path_buf()] };
    if files.is_empty() {
        return Err(Failure::new(
            1,
            format!("{}: this folder has no .pt file; give a run's output_dir or a .pt file", path.display()),
        ));
    }
    let mut damaged = 0;
    for file in &files {
        let found = File::open(file).and_then(|file| file.verify());
        match found {
            Ok(Checksums::Verified) => output::print(&format!("{}: valid\n", file.display()))?,
            Ok(_) => output::print(&format!(
                "{}: the file has no checksums, so damage cannot be detected\n",
                file.display()
            ))?,
            Err(error) => {
                damaged += 1;
                let failure = Failure::of(1, &error);
                output::print(&format!("{}: DAMAGED\n", file.display()))?;
                output::say(&format!("keepstep: {failure}"));
            }
        }
    }
    match damaged {
        0 => Ok(()),
        1 if files.len() == 1 => Err(Failure::new(1, format!("{} is damaged", path.display()))),
        _ => Err(Failure::new(1, format!("{damaged} of {} files are damaged", files.len()))),
    }
}
