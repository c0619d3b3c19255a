//! A loss of power or a kill at every operation of the store, with every order in which a disk may have done what was not
//! yet synced: no checkpoint that was reported as saved is lost, and discovery picks the right one.
//!
//! `cargo xtask soak crash-states` looks at a million states.

mod check;
mod disk;
mod script;

use crate::support::random::Random;
use crate::support::retention;
use check::{check, identity};
use disk::{Disk, Limits};
use keepstep::testing::{Lies, Memory, Tree};
use script::{Expectation, FOLDER, Known, Script, Session, hash};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// What has been looked at.
#[derive(Default)]
struct Tally {
    all: BTreeSet<u64>,
    seen: BTreeSet<u64>,
}

impl Tally {
    /// Checks every state that a crash during the session may leave.
    fn look(
        &mut self,
        disk: &mut Disk,
        session: &Session,
        known: &Known,
        limits: Limits,
        random: &mut Random,
    ) -> Result<(), String> {
        for done in 0..=session.operations.len() {
            if let Some(at) = done.checked_sub(1) {
                disk.apply(&session.operations[at]);
            }
            let expect = session.expectation(done);
            let mut failure = None;
            let mut visit = |tree: Tree| {
                let (all, seen) = identity(&tree);
                self.seen.insert(hash(&(seen, expect.reported, expect.best)));
                if failure.is_none()
                    && self.all.insert(hash(&(all, expect.reported, expect.best)))
                    && let Err(error) = check(&tree, expect, known)
                {
                    failure = Some(describe(&error, session, done, &tree, known));
                }
            };
            // A kill alone, and every loss of power.
            visit(disk.live().clone());
            disk.crashes(limits, random, &mut visit);
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Some sessions, each but the last ending in a kill or a loss of power; every crash of the last is looked at.
    fn round(&mut self, seed: u64, round: u64, lies: Lies) -> Result<(), String> {
        let random = &mut Random::new(hash(&(seed, round)));
        let mut known = Known::default();
        let mut disk = Disk::of(root());
        let mut expect = Expectation::default();
        let num_sessions = 1 + random.below(3);
        for number in 1..=num_sessions {
            let script = Script::random(random);
            let memory = Memory::new(disk.live().clone()).lying(lies);
            let memory = if script.has_no_links { memory.without_links() } else { memory };
            let session = Session::run(&script, &memory, &expect, &mut known, number);
            if number == num_sessions {
                let limits = Limits { names: 256, data: 8 };
                return self.look(&mut disk, &session, &known, limits, random).map_err(|error| {
                    format!(
                        "`cargo xtask soak crash-states --seed {seed} --round {round}` replays it\n{error}"
                    )
                });
            }
            // Often soon, while the folder is being made or opened.
            let all = session.operations.len() as u64 + 1;
            let end = if random.once_in(3) { all.min(8) } else { all };
            let done = random.below(end) as usize;
            session.operations[..done].iter().for_each(|operation| disk.apply(operation));
            expect = session.expectation(done).clone();
            if random.once_in(2) {
                let mut tree = disk.crash(random);
                if random.once_in(4) {
                    decay(&mut tree, &mut expect, &mut known, random);
                }
                disk = Disk::of(tree);
            }
        }
        Ok(())
    }
}

/// The root of a file system.
fn root() -> Tree {
    Tree { folders: [Path::new("/").to_path_buf()].into(), ..Tree::default() }
}

/// One bit of one file flips by itself: what was reported may be lost by that, and nothing else.
fn decay(tree: &mut Tree, expect: &mut Expectation, known: &mut Known, random: &mut Random) {
    let files: Vec<u64> = tree.names.values().copied().collect();
    if files.is_empty() {
        return;
    }
    let content =
        tree.contents.get_mut(&files[random.below(files.len() as u64) as usize]).expect("it is there");
    if content.is_empty() {
        return;
    }
    let before = content.to_vec();
    let content = Arc::make_mut(content);
    let at = random.below(content.len() as u64) as usize;
    content[at] ^= 1 << random.below(8);
    let is_whole = known.take_as_whole(content, &before);
    if expect.superseded.remove(&hash(&before)) && is_whole {
        expect.superseded.insert(hash(content));
    }
    expect.reported = expect.reported.min(known.newest(tree).map_or(0, |(_, step)| step));
    if tree
        .content(&Path::new(FOLDER).join("best_model.pt"))
        .and_then(|content| known.step(content))
        .is_none()
    {
        expect.best = 0;
    }
}

fn describe(error: &str, session: &Session, done: usize, tree: &Tree, known: &Known) -> String {
    let mut text = format!("{error}\nafter operation {done} of:\n");
    for (index, operation) in session.operations[..done].iter().enumerate() {
        let mut line = format!("{operation:?}");
        line.truncate(140);
        _ = writeln!(text, "  {:>3} {line}", index + 1);
    }
    text.push_str("the crash left:\n");
    for path in tree.names.keys() {
        let content = tree.content(path).expect("it is there");
        _ = writeln!(
            text,
            "  {} {} bytes, checkpoint {:?}",
            path.display(),
            content.len(),
            known.step(content)
        );
    }
    text
}

/// A number from the environment, which is how `cargo xtask soak` asks for more.
fn number(key: &str) -> Option<u64> {
    std::env::var(key).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn every_crash_of_a_session() {
    let (mut tally, mut known) = (Tally::default(), Known::default());
    let first = Script {
        retention: retention(2, 2),
        has_no_links: false,
        rewind: None,
        saves: vec![(2, false), (2, true), (1, false), (1, false), (2, true), (2, false)],
    };
    let second = Script { rewind: Some(1), saves: vec![(1, true), (1, false)], ..first.clone() };
    let data = if number("KEEPSTEP_CRASH_STATES").is_some() { 4096 } else { 64 };
    let limits = Limits { names: 1024, data };
    let mut disk = Disk::of(root());
    let mut expect = Expectation::default();
    for (branch, script) in [(1, first), (2, second)] {
        let memory = Memory::new(disk.live().clone());
        let session = Session::run(&script, &memory, &expect, &mut known, branch);
        let looked = tally.look(&mut disk, &session, &known, limits, &mut Random::new(branch));
        looked.unwrap_or_else(|error| panic!("{error}"));
        expect = session.expectation(session.operations.len()).clone();
    }
    println!(
        "one session: {} distinct states, {} without what is half written",
        tally.all.len(),
        tally.seen.len()
    );
    assert!(tally.all.len() > 500 && tally.seen.len() > 25);
}

#[test]
fn crashes_of_random_sessions() {
    let seed = number("KEEPSTEP_CRASH_SEED").unwrap_or(1);
    let mut tally = Tally::default();
    if let Some(round) = number("KEEPSTEP_CRASH_ROUND") {
        return tally.round(seed, round, Lies::default()).unwrap_or_else(|error| panic!("{error}"));
    }
    let wanted = number("KEEPSTEP_CRASH_STATES").unwrap_or(4_000) as usize;
    let mut rounds = 0;
    while tally.all.len() < wanted {
        tally.round(seed, rounds, Lies::default()).unwrap_or_else(|error| panic!("{error}"));
        rounds += 1;
    }
    println!(
        "{rounds} random rounds of seed {seed}: {} distinct states, {} without what is half written",
        tally.all.len(),
        tally.seen.len()
    );
}

#[test]
fn crashes_after_a_rewind_that_was_killed() {
    let (mut tally, mut known) = (Tally::default(), Known::default());
    let saves = |rewind, saves| Script { retention: retention(3, 2), has_no_links: false, rewind, saves };
    let mut disk = Disk::of(root());
    let memory = Memory::new(disk.live().clone());
    let script = saves(None, vec![(2, false), (2, true), (2, false)]);
    let first = Session::run(&script, &memory, &Expectation::default(), &mut known, 1);
    first.operations.iter().for_each(|operation| disk.apply(operation));
    let expect = first.expectation(first.operations.len());
    let memory = Memory::new(disk.live().clone());
    let second = Session::run(&saves(Some(1), vec![(1, false)]), &memory, expect, &mut known, 2);
    for done in 0..=second.operations.len() {
        let mut disk = disk.clone();
        second.operations[..done].iter().for_each(|operation| disk.apply(operation));
        let memory = Memory::new(disk.live().clone());
        let script = saves(None, vec![(2, false), (2, true)]);
        let third = Session::run(&script, &memory, second.expectation(done), &mut known, 3);
        let limits = Limits { names: 1024, data: 8 };
        let looked = tally.look(&mut disk, &third, &known, limits, &mut Random::new(1));
        looked.unwrap_or_else(|error| panic!("killed after operation {done} of a rewind: {error}"));
    }
}

#[test]
fn a_missing_sync_is_noticed() {
    for lies in [Lies { no_sync: true, ..Lies::default() }, Lies { no_sync_folder: true, ..Lies::default() }]
    {
        let mut tally = Tally::default();
        let noticed = (0..20).any(|round| tally.round(1, round, lies).is_err());
        assert!(noticed, "{lies:?}");
    }
}
