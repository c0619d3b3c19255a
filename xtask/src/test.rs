//! `cargo xtask test`: everything that a change must pass.

use crate::command::{self, cargo, describe};
use crate::processor::Instructions;
use crate::{arm, deny, fuzz, machine, python};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    if arguments == ["--python"] {
        let mut tally = Tally { succeeded: true, ..Tally::default() };
        for tests in &mut python::tests()? {
            tally.add_all(&Tally::of(tests)?);
        }
        return tally.say();
    }
    let (quick, all_torch) = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => (false, false),
        ["--quick"] => (true, false),
        ["--all-torch"] => (false, true),
        _ => return Err(format!("test takes --quick, --python, --all-torch or nothing, not {arguments:?}")),
    };
    run_checks()?;

    machine::debian("qemu-x86_64", &["qemu-user"])?;
    machine::debian("unzip", &["unzip"])?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    if quick {
        eprintln!(
            "xtask: --quick: the tests of the Python package and those against PyTorch, TensorBoard, object stores, a browser and emulated ARM are left out; those of the \
             workspace count as skipped"
        );
    } else {
        let python = machine::torch_python()?;
        machine::debian("chromium", &["chromium"])?;
        tests.env("KEEPSTEP_CHROMIUM", "chromium");
        tests.env("KEEPSTEP_ARM_PROGRAM", arm::program()?);
        tests.env("KEEPSTEP_UPLOADERS_PYTHON", machine::uploaders_python()?);
        tests.envs(machine::object_stores()?);
        tests.env("KEEPSTEP_TENSORBOARD_PYTHON", machine::tensorboard_python()?);
        if all_torch {
            tests.env("KEEPSTEP_OLD_TORCH_PYTHON", machine::old_torch_python()?);
        }
        tests.env("KEEPSTEP_TORCH_PYTHON", python).args(["--", "--include-ignored"]);
    }
    let mut tally = Tally::of(&mut tests)?;
    if !quick {
        tally.add_all(&Tally::of(&mut arm::tests())?);
        for tests in &mut python::tests()? {
            tally.add_all(&Tally::of(tests)?);
        }
        python::other_versions()?;
        if all_torch {
            arm::import(&arm::package()?)?;
            tally.add_all(&Tally::of(&mut python::old_torch_tests()?)?);
        }
    }
    say_what_this_processor_lacks();
    tally.say()
}

/// Prints which kernels did not run because this processor lacks their instructions.
fn say_what_this_processor_lacks() {
    for instructions in Instructions::ALL {
        let said = if instructions.are_here() {
            "here, and its kernels were tested"
        } else {
            "NOT here: its kernels were built and not run"
        };
        println!("xtask: {} is {said}", instructions.name());
    }
}

fn run_checks() -> Result<(), String> {
    command::run(cargo().args(["fmt", "--all", "--check"]))?;
    command::run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    // The features that may be left out can be left out, alone and together.
    for features in
        [&[][..], &["--features", "hub"], &["--features", "tensorboard"], &["--features", "remote"]]
    {
        let mut check = cargo();
        check
            .args(["clippy", "--package", "keepstep-cli", "--no-default-features", "--quiet"])
            .args(features);
        command::run(check.args(["--", "-D", "warnings"]))?;
    }
    fuzz::check()?;
    deny::check()?;
    command::run(
        cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// The sums of the summaries that the test harnesses print.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    succeeded: bool,
}

impl Tally {
    /// Runs the tests and passes their output on.
    fn of(command: &mut Command) -> Result<Tally, String> {
        let line = describe(command);
        eprintln!("xtask: {line}");
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{line}: {error}"))?;
        let mut tally = Tally::default();
        if let Some(output) = child.stdout.take() {
            for text in BufReader::new(output).split(b'\n') {
                let text =
                    String::from_utf8_lossy(&text.map_err(|error| format!("{line}: {error}"))?).into_owned();
                println!("{text}");
                tally.add(&text);
            }
        }
        tally.succeeded = child.wait().map_err(|error| format!("{line}: {error}"))?.success();
        Ok(tally)
    }

    /// Prints the sums; an error if a test failed.
    fn say(&self) -> Result<(), String> {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.ignored);
        if self.failed == 0 && self.succeeded { Ok(()) } else { Err("some tests failed".to_owned()) }
    }

    /// Counts another command's tests as well.
    fn add_all(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.succeeded &= other.succeeded;
    }

    /// Counts one line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
    fn add(&mut self, line: &str) {
        if let Some([passed, failed, skipped]) = python::counts(line) {
            self.passed += passed;
            self.failed += failed;
            self.ignored += skipped;
        }
        let Some(summary) = line.strip_prefix("test result: ") else {
            return;
        };
        let Some((_, counts)) = summary.split_once(". ") else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_summed() {
        let mut tally = Tally::default();
        tally.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        tally.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        tally.add("test position::tests::x ... ok");
        assert_eq!((tally.passed, tally.failed, tally.ignored), (5, 4, 1));
        tally.succeeded = true;
        tally.add_all(&Tally { passed: 2, failed: 1, ignored: 0, succeeded: false });
        assert_eq!((tally.passed, tally.failed, tally.ignored, tally.succeeded), (7, 5, 1, false));
    }
}
