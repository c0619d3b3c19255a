//! A small tmpfs, of every size in steps of 4 KiB up to what is needed.

use crate::support::{archive, retention, save};
use keepstep::name::{BEST_MODEL, Name};
use keepstep::store::{Disk, Storage, Store, StoreError, chain, load};
use keepstep::testing::{Hooked, Watched};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const KEPT: usize = 3;
const SAVES: u64 = 8;
/// 24 KiB and a little: seven pages a file.
const NUM_ELEMENTS: usize = 6000;
const PAGE_KIB: u64 = 4;
const FILE_PAGES: u64 = 7;
/// The kept, one more while it replaces the oldest, the best, and one more best while it replaces the old.
const ENOUGH_KIB: u64 = (KEPT as u64 + 3) * FILE_PAGES * PAGE_KIB;

/// Starts this program where it may mount.
pub fn run() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let ways: [&[&str]; 2] = [&["--user", "--map-root-user", "--mount"], &["--mount"]];
    // Where the system lets no user make a namespace, root still may mount in one.
    let works = |flags: &&&[&str]| {
        let tried = Command::new("unshare").args(**flags).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    };
    let namespace = ways.iter().find(works).expect("a namespace to mount in");
    let mut command = Command::new("unshare");
    command.args(*namespace).arg(std::env::current_exe().expect("this program"));
    let status = command.arg("fill").arg(scratch.path()).status().expect("unshare starts");
    assert!(status.success(), "a full disk: {status}");
}

/// Fills a tmpfs of each size.
pub fn fill_disks(mount: &Path) {
    let (mut sizes, mut failures) = (0, 0);
    for kib in (PAGE_KIB..=ENOUGH_KIB + 2 * PAGE_KIB).step_by(PAGE_KIB as usize) {
        command("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], mount);
        let failed = fill(&mount.join("run"), kib);
        assert!(failed == 0 || kib < ENOUGH_KIB, "{kib} KiB are enough, and {failed} saves failed");
        assert!(failed == SAVES || kib >= FILE_PAGES * PAGE_KIB, "{kib} KiB cannot hold a checkpoint");
        command("umount", &[], mount);
        sizes += 1;
        failures += failed;
    }
    println!("{sizes} sizes of a disk: {failures} of {} saves failed, and nothing was lost", sizes * SAVES);
    assert!(failures > SAVES * FILE_PAGES, "the disks were not full");
}

fn command(program: &str, arguments: &[&str], mount: &Path) {
    let output = Command::new(program).args(arguments).arg(mount).output().expect("it starts");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Saves again and again, and gives how often the disk was full.
fn fill(folder: &Path, kib: u64) -> u64 {
    let mut store = Store::open(folder, Arc::new(Hooked(Watched))).expect("a folder takes no room");
    let mut failures = 0;
    for step in 1..=SAVES {
        let before = valid(folder);
        let saved =
            save(&mut store, step, &archive(step, 1, NUM_ELEMENTS), step % 3 == 1, &retention(KEPT, 1));
        let after = valid(folder);
        let at = format!("{kib} KiB, save {step}");
        match saved {
            Ok(()) => {
                let others = before.len().min(KEPT - 1);
                assert!(after.len() > others, "{at}: {before:?} became {after:?}");
            }
            Err(error) => {
                failures += 1;
                let text = chain(&error);
                assert!(
                    matches!(error, StoreError::Write { .. } | StoreError::NoRoom { .. })
                        && text.contains("os error 28"),
                    "{at}: {text}"
                );
                assert!(text.contains("/run/"), "{at}: the file is not named: {text}");
                assert!(before.is_subset(&after), "{at}: {before:?} became {after:?}");
            }
        }
        let left = Disk.list(folder).expect("the folder");
        assert!(!left.iter().any(|path| path.to_string_lossy().ends_with(".tmp")), "{at}: {left:?}");
        let best = folder.join(BEST_MODEL);
        assert!(!best.exists() || load(&best).is_ok(), "{at}: the best is damaged");
    }
    failures
}

/// The checkpoints that hold.
fn valid(folder: &Path) -> BTreeSet<PathBuf> {
    let is_checkpoint = |path: &PathBuf| {
        path.file_name().and_then(|name| Name::parse(name.to_str()?)).is_some() && load(path).is_ok()
    };
    Disk.list(folder).expect("the folder").into_iter().filter(is_checkpoint).collect()
}
