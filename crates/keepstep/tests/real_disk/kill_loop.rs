//! SIGKILL at random instants of a process that saves, rotates and moves the best.

use crate::saver::{KEPT, is_best, num_elements};
use crate::support::checkpoint;
use crate::support::random::Random;
use keepstep::name::{BEST_MODEL, Name};
use keepstep::store::{Candidates, Disk, find, load};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a killed process had said.
struct Said {
    resumed: Option<u64>,
    saved: u64,
    num_saves: u64,
}

pub fn run(kills: u64, seed: u64) {
    let scratch = scratch();
    let folder = scratch.path().join("run");
    let mut random = Random::new(seed);
    let (mut reported, mut best, mut newest) = (0, 0, 0);
    let (mut num_saves, mut within_a_save, mut not_said) = (0, 0, 0);
    for kill in 0..kills {
        let said = kill_one(&folder, &mut random);
        if let Some(resumed) = said.resumed {
            assert_eq!(resumed, newest, "kill {kill} of seed {seed}: the wrong checkpoint was picked");
        }
        num_saves += said.num_saves;
        best = (reported + 1..=said.saved).filter(|step| is_best(*step)).max().unwrap_or(best);
        reported = said.saved.max(reported);
        let valid = valid(&folder);
        let is_checkpoint = |path: &&PathBuf| !path.ends_with(BEST_MODEL);
        let checkpoints = valid.keys().filter(is_checkpoint).count();
        let before = newest;
        newest =
            valid.iter().filter(|(path, _)| is_checkpoint(path)).map(|(_, step)| *step).max().unwrap_or(0);
        let at = format!("kill {kill} of seed {seed}");
        assert!(newest >= reported, "{at}: {reported} was reported as saved, and {newest} is the newest");
        assert!(newest <= before.max(reported) + 1, "{at}: {newest} cannot be there");
        assert!(checkpoints as u64 >= (newest / 2).min(KEPT as u64), "{at}: {checkpoints} are left");
        let there = valid.get(&folder.join(BEST_MODEL)).copied().unwrap_or(0);
        assert!(there >= best, "{at}: the best holds {there}, and {best} was reported as saved");
        let candidates = Candidates::new(&folder);
        let found = find(&Disk, &candidates).expect("a valid checkpoint, or none");
        let step = found.map_or(0, |found| found.checkpoint.position.global_step);
        // A best alone is the last resort.
        let expected = if checkpoints == 0 { there } else { newest };
        assert_eq!(step, expected, "{at}: discovery picks the wrong one");
        newest = expected;
        within_a_save += u64::from(has_temporary(&folder));
        not_said += u64::from(newest > reported);
    }
    println!(
        "{kills} kills of seed {seed} among {num_saves} saves: {within_a_save} left a temporary file, {not_said} came \
         between a save and its report; none lost, none picked wrongly"
    );
    assert!(within_a_save > kills / 20 && num_saves > kills, "the kills miss the saves");
}

fn kill_one(folder: &Path, random: &mut Random) -> Said {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .arg("save")
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut text = String::new();
    // Most kills come while it saves, some while it opens the folder.
    if !random.once_in(16) {
        output.read_line(&mut text).expect("its first line");
    }
    std::thread::sleep(Duration::from_micros(random.below(4_000)));
    child.kill().expect("SIGKILL");
    output.read_to_string(&mut text).expect("its output");
    let status = child.wait().expect("its status");
    assert_eq!(status.code(), None, "it ended by itself: {text}");
    let steps = |what: &str| -> Vec<u64> {
        text.lines().filter_map(|line| line.strip_prefix(what)?.trim().parse().ok()).collect()
    };
    let saves = steps("saved");
    Said {
        resumed: steps("resumed").first().copied(),
        saved: saves.last().copied().unwrap_or(0),
        num_saves: saves.len() as u64,
    }
}

/// The checkpoints and the best of the folder that hold what was saved, element by element.
fn valid(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut valid = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else { return valid };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let stated = Name::parse(name);
        if stated.is_none() && name != BEST_MODEL {
            continue;
        }
        let Ok(found) = load(&path) else { continue };
        let step = found.position.global_step;
        let saved = checkpoint(step, 1, num_elements(step));
        assert!(stated.is_none_or(|name| name.global_step == step), "{name} holds {step}");
        assert_eq!(found.to_value(), saved.to_value(), "{name} holds something else");
        valid.insert(path, step);
    }
    valid
}

fn has_temporary(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.filter_map(Result::ok).any(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"))
}

/// In memory where there is such a place: a kill loses nothing that a disk would have to keep.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a scratch folder")
}
