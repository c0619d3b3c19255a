//! `keepstep report`: write a run as one HTML page that needs no other file.

mod chart;
mod curve;
mod html;
mod page;
mod run_data;
mod svg;
mod tables;

use crate::failure::Failure;
use crate::output;
use run_data::RunData;
use std::path::Path;

pub(crate) fn run(folder: &Path, out: &Path) -> Result<(), Failure> {
    let data = RunData::read(folder)?;
    let page = page::page(&data);
    keepstep::store::write_whole(out, page.as_bytes()).map_err(|error| {
        Failure::new(1, format!("{}: the page cannot be written: {error}", out.display()))
    })?;
    output::print(&format!("{}\n", out.display()))
}
