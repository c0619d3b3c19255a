//! Going back: what is later is out of the way, whatever a crash left of the time before.

use crate::support::{archive, name};
use keepstep::store::{Candidates, Disk, SUPERSEDED, Store, find};
use std::sync::Arc;

/// A crash may leave both names of a file whose renaming had begun.
#[test]
fn a_file_that_has_both_names_is_moved_all_the_same() {
    let scratch = tempfile::tempdir().expect("a folder");
    let folder = scratch.path();
    let mut store = Store::open(folder, Arc::new(Disk)).expect("the folder");
    for step in [1, 2] {
        store.publish(&name(step), &archive(step, 1, 16)).expect("a save");
    }
    let aside = folder.join(SUPERSEDED);
    std::fs::create_dir(&aside).expect("a folder");
    std::fs::hard_link(folder.join(name(2)), aside.join(name(2))).expect("a second name");

    assert_eq!(store.supersede(1).expect("it is moved"), [aside.join(name(2))]);
    assert!(!folder.join(name(2)).exists(), "the later checkpoint is still in the way");
    assert!(aside.join(name(2)).exists(), "it is not lost");
    let candidates = Candidates::new(folder);
    let found = find(&Disk, &candidates).expect("a valid one").expect("there is one");
    assert_eq!(found.checkpoint.position.global_step, 1);
}
