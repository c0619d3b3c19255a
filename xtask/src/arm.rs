//! 64-bit ARM under emulation: a run there ends in the same bytes as on x86-64.

use crate::command::{self, cargo, root};
use crate::machine;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// Imports the package on an emulated processor, with a Python of its own and without torch, and runs its program.
///
/// `site` is a folder with the package `keepstep`, built for ARM.
pub(crate) fn import(site: &Path) -> Result<(), String> {
    machine::debian("qemu-aarch64", &["qemu-user"])?;
    let (python, root) = machine::arm_python()?;
    let emulated = |arguments: &[&str]| {
        let mut command = Command::new("qemu-aarch64");
        command.arg("-L").arg(&root).arg(&python).args(arguments);
        command.env("PYTHONPATH", site).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    // The keys are part of the format: they are those of other processors.
    let script = "import keepstep, platform; assert platform.machine() == 'aarch64'; \
                  assert keepstep._core.key(1337, 'micro-batch', 1, 0) == 8412895907590904191; \
                  print('keepstep', keepstep.__version__, 'imported on', platform.machine())";
    command::run(&mut emulated(&["-c", script]))?;
    command::run(emulated(&["-m", "keepstep", "--help"]).stdout(Stdio::null()))
}

/// The package for ARM, built without a wheel: a folder for [`import`].
pub(crate) fn package() -> Result<PathBuf, String> {
    command::run(cross("build").args(["--quiet", "-p", "keepstep-py"]))?;
    let site = target_dir().join(TARGET).join("site");
    let package = site.join("keepstep");
    let _ = std::fs::remove_dir_all(&site);
    let copy = || -> std::io::Result<()> {
        std::fs::create_dir_all(&package)?;
        for entry in std::fs::read_dir(root().join("python/keepstep"))?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "py") {
                std::fs::copy(entry.path(), package.join(entry.file_name()))?;
            }
        }
        let library = target_dir().join(TARGET).join("debug/lib_core.so");
        std::fs::copy(library, package.join("_core.abi3.so")).map(drop)
    };
    copy().map_err(|error| format!("{}: {error}", package.display()))?;
    Ok(site)
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
