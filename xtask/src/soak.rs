//! `cargo xtask soak`: the long forms of the tests. The pipeline runs the same tests for seconds.

use crate::command::{cargo, run};
use crate::{machine, python};

const KILLS: u64 = 10_000;
const STATES: u64 = 1_000_000;

/// What can be soaked, with the options that it takes.
const SOAKS: [(&str, &[&str]); 4] = [
    ("kill-loop", &["--kills", "--seed"]),
    ("crash-states", &["--states", "--seed", "--round"]),
    ("pytorch", &["--kills", "--seed"]),
    ("remote", &["--kills", "--rounds", "--seed"]),
];

pub(crate) fn main(arguments: &[String]) -> Result<(), String> {
    let usage = || {
        let form = |(name, options): &(&str, &[&str])| {
            let options: String = options.iter().map(|option| format!(" [{option} N]")).collect();
            format!("{name}{options}")
        };
        format!("soak takes {}", SOAKS.iter().map(form).collect::<Vec<_>>().join(" or "))
    };
    let (name, rest) = arguments.split_first().ok_or_else(usage)?;
    let (_, options) = SOAKS.iter().find(|(known, _)| known == name).ok_or_else(usage)?;
    let mut numbers = Vec::new();
    for pair in rest.chunks(2) {
        let [option, number] = pair else { return Err(usage()) };
        if !options.contains(&option.as_str()) {
            return Err(usage());
        }
        let number: u64 = number.parse().map_err(|_| format!("{option} takes a number, not {number}"))?;
        numbers.push((option.trim_start_matches('-').to_owned(), number));
    }
    let number =
        |name: &str| numbers.iter().rev().find(|(known, _)| known == name).map(|(_, number)| *number);
    if name == "pytorch" {
        for mut tests in python::soak()? {
            for (option, variable) in [("kills", "KEEPSTEP_KILLS"), ("seed", "KEEPSTEP_SEED")] {
                if let Some(number) = number(option) {
                    tests.env(variable, number.to_string());
                }
            }
            run(&mut tests)?;
        }
        return Ok(());
    }
    if name == "remote" {
        return remote(number("kills"), number("rounds"), number("seed"));
    }
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "keepstep", "--test"]);
    match name.as_str() {
        "kill-loop" => {
            let (kills, seed) = (number("kills").unwrap_or(KILLS), number("seed").unwrap_or(1));
            command.args(["real_disk", "--", "kill-loop"]).args([kills.to_string(), seed.to_string()]);
        }
        _ => {
            command.args(["it", "--", "--nocapture"]);
            command.env("KEEPSTEP_CRASH_STATES", number("states").unwrap_or(STATES).to_string());
            command.env("KEEPSTEP_CRASH_SEED", number("seed").unwrap_or(1).to_string());
            match number("round") {
                Some(round) => command
                    .arg("crash_states::crashes_of_random_sessions")
                    .env("KEEPSTEP_CRASH_ROUND", round.to_string()),
                None => command.arg("crash_states::"),
            };
        }
    }
    run(&mut command)
}

/// The protocol in many more interleavings, connections that break at every 64 KiB, and machines that vanish on every
/// server.
fn remote(kills: Option<u64>, rounds: Option<u64>, seed: Option<u64>) -> Result<(), String> {
    let mut protocol = cargo();
    protocol.args([
        "test",
        "--quiet",
        "--package",
        "keepstep-remote",
        "--lib",
        "protocol",
        "--",
        "--nocapture",
    ]);
    protocol.env("KEEPSTEP_REMOTE_ROUNDS", rounds.unwrap_or(100_000).to_string());
    protocol.env("KEEPSTEP_REMOTE_SEED", seed.unwrap_or(1).to_string());
    run(&mut protocol)?;
    let mut program = cargo();
    program.args([
        "test",
        "--quiet",
        "--package",
        "keepstep-cli",
        "--features",
        "remote",
        "--test",
        "it",
        "remote",
    ]);
    program.args(["--", "--include-ignored", "--nocapture", "--test-threads", "1"]);
    program
        .env("KEEPSTEP_REMOTE_KILLS", kills.unwrap_or(30).to_string())
        .env("KEEPSTEP_REMOTE_STEP", "65536");
    run(program.envs(machine::object_stores()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        let main = |line: &str| main(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        for line in [
            "",
            "sleep",
            "kill-loop --states 3",
            "kill-loop --kills",
            "crash-states --seed x",
            "pytorch --states 1",
        ] {
            assert!(main(line).is_err(), "{line}");
        }
    }
}
