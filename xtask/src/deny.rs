//! `cargo deny`: the licenses, names and sources of everything that is built, and known vulnerabilities where their
//! database can be had.

use crate::command::{cargo, root, run, succeeds};
use crate::machine;
use std::process::Command;

pub(crate) fn check() -> Result<(), String> {
    let program = machine::cargo_deny()?;
    let deny = |checks: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(root()).args(["--locked", "check", "--hide-inclusion-graph"]).args(checks);
        if let Some(cargo) = cargo().get_program().to_str() {
            command.env("CARGO", cargo);
        }
        command
    };
    run(&mut deny(&["bans", "licenses", "sources"]))?;
    // The database is a repository on GitHub, which not every machine can reach.
    let mut fetch = Command::new(&program);
    fetch.current_dir(root()).args(["fetch", "db"]);
    if succeeds(&mut fetch) {
        run(&mut deny(&["advisories"]))?;
        println!("xtask: cargo deny: bans, licenses, sources and advisories were checked");
    } else {
        println!(
            "xtask: cargo deny: bans, licenses and sources were checked; advisories were NOT: their database cannot be had here"
        );
    }
    Ok(())
}
