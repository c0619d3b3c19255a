//! 64-bit ARM under emulation: a run there ends in the same bytes as on x86-64.

use crate::command::{self, cargo, root};
use crate::machine;
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Where Debian's cross compiler keeps the target's libraries.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

/// The crate of the arithmetic, the only one with code for ARM.
const NUMERICS: &str = "keepstep-numerics";

/// Builds the program for ARM and returns its path. A warning fails the build.
pub(crate) fn program() -> Result<PathBuf, String> {
    machine::rust_target(TARGET)?;
    machine::debian("aarch64-linux-gnu-gcc", &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"])?;
    machine::debian("qemu-aarch64", &["qemu-user"])?;
    let mut clippy = cross("clippy");
    clippy.args(["--quiet", "-p", NUMERICS, "--all-targets", "--", "-D", "warnings"]);
    command::run(&mut clippy)?;
    command::run(cross("build").args(["-p", "keepstep-cli"]))?;
    Ok(target_dir().join(TARGET).join("debug/keepstep"))
}

/// The tests of the arithmetic and of the models, with all their golden hashes, on an emulated processor.
pub(crate) fn tests() -> Command {
    let mut tests = cross("test");
    tests.args(["--no-fail-fast", "-p", NUMERICS, "-p", "keepstep-model", "--lib"]);
    tests.env("KEEPSTEP_EMULATED", "1");
    tests
}

/// A cargo command for ARM.
fn cross(verb: &str) -> Command {
    let mut command = cargo();
    command.args([verb, "--target", TARGET]);
    let variable = |name: &str| format!("CARGO_TARGET_{}_{name}", TARGET.to_uppercase().replace('-', "_"));
    command.env(variable("LINKER"), "aarch64-linux-gnu-gcc");
    command.env(variable("RUNNER"), format!("qemu-aarch64 -L {SYSROOT}"));
    command.env(variable("RUSTFLAGS"), "-D warnings");
    command
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}
