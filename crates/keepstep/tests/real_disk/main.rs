//! Processes that are killed while they save, and disks that are full: with real files.
//!
//! A binary of its own and without a harness, because it starts itself: `main` is also the process that saves.
//! `cargo xtask soak kill-loop` makes the long form.

#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod full_disk;
mod kill_loop;
mod saver;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;

const TESTS: [(&str, fn()); 2] =
    [("killed_while_saving", || kill_loop::run(200, 1)), ("a_full_disk_of_every_size", full_disk::run)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["save", folder] => saver::save_until_killed(Path::new(folder)),
        ["fill", mount] => full_disk::fill_disks(Path::new(mount)),
        ["kill-loop", kills, seed] => kill_loop::run(number(kills), number(seed)),
        others => return as_a_harness(others),
    }
    ExitCode::SUCCESS
}

/// Runs the tests that are asked for and says so in the harness's words. A failure panics.
fn as_a_harness(arguments: &[&str]) -> ExitCode {
    let filters: Vec<&&str> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_asked_for =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(**filter));
    if arguments.contains(&"--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut passed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| is_asked_for(name)) {
        test();
        println!("test {name} ... ok");
        passed += 1;
    }
    let others = TESTS.len() - passed;
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; {others} filtered out");
    ExitCode::SUCCESS
}
