//! The process that is killed: it saves tiny checkpoints as fast as it can, and says when each is saved.

use crate::support::{archive, retention, save};
use keepstep::store::{Candidates, Disk, Store, find};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// How many scheduled checkpoints are kept; every second is scheduled.
pub const KEPT: usize = 3;

/// Whether the checkpoint at a step is the best so far.
pub fn is_best(step: u64) -> bool {
    step.is_multiple_of(5) || step % 7 == 3
}

/// So many elements that the files differ in size: 3 to 20 KiB.
pub fn num_elements(step: u64) -> usize {
    16 + (step % 5) as usize * 1000
}

pub fn save_until_killed(folder: &Path) {
    let mut store = Store::open(folder, Arc::new(Disk)).expect("the folder");
    let candidates = Candidates::new(folder);
    let found = find(&Disk, &candidates).expect("a valid checkpoint, or none");
    let start = found.map_or(0, |found| found.checkpoint.position.global_step);
    say("resumed", start);
    for step in start + 1.. {
        let archive = archive(step, 1, num_elements(step));
        save(&mut store, step, &archive, is_best(step), &retention(KEPT, 2)).expect("a save");
        say("saved", step);
    }
}

/// One write, so that a reader never sees a part of a line.
fn say(what: &str, step: u64) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{what} {step}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("somebody listens");
}
