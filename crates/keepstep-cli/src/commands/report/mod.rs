//! `keepstep report`: a run as one page that needs nothing beside it.

mod chart;
mod curve;
mod html;
mod page;
mod run_data;
mod svg;
mod tables;

use super::Failure;
use run_data::RunData;
use std::io::Write;
use std::path::{Path, PathBuf};

pub(crate) fn run(folder: &Path, out: &Path) -> Result<(), Failure> {
    let data = RunData::read(folder)?;
    let page = page::page(&data);
    write_whole(out, page.as_bytes())
        .map_err(|error| Failure::new(1, format!("{}: it cannot be written: {error}", out.display())))?;
    super::print(&format!("{}\n", out.display()))
}

/// The file has its name only once it is whole.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().ok_or_else(|| std::io::Error::other("this is no name of a file"))?;
    let mut temporary = PathBuf::from(path);
    temporary.set_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}
