//! The Python package: its tests against the installed wheel, and wheels for other machines.

use crate::command::{self, cargo, root};
use crate::{arm, machine};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Builds the wheel once, installs it away from the sources, and gives pytest over `python/tests`: over its folder
/// `trainers` with other people's trainers installed, and over the rest without them.
pub(crate) fn tests() -> Result<[Command; 2], String> {
    let python = machine::package_python()?;
    let wheel = build(&python, &["--profile", "dev"], "test-wheel")?;
    let site = install(&python, &wheel, "test-site")?;
    let pytest = |python: &Path, arguments: [&str; 2]| {
        let mut tests = Command::new(python);
        tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5"]).args(arguments);
        tests.current_dir(root()).env("PYTHONPATH", &site).env("KEEPSTEP_WHEEL", &wheel);
        // Nothing may ask the hub for anything.
        tests.env("HF_HUB_OFFLINE", "1").env("HF_HUB_DISABLE_TELEMETRY", "1");
        tests
    };
    Ok([
        pytest(&python, ["python/tests", "--ignore=python/tests/trainers"]),
        pytest(&machine::peers_python()?, ["python/tests/trainers", "--strict-markers"]),
    ])
}

/// The tests of the package that need nothing but torch: they run with the older PyTorch as well.
const TORCH_ALONE: [&str; 9] = [
    "test_data.py",
    "test_draws.py",
    "test_features.py",
    "test_forks.py",
    "test_random.py",
    "test_rehearsed_run.py",
    "test_resume.py",
    "test_run.py",
    "test_save.py",
];

/// pytest with the older PyTorch, over the tests that need nothing else. The wheel is that of [`tests`], built before.
pub(crate) fn old_torch_tests() -> Result<Command, String> {
    let python = machine::old_package_python()?;
    let wheel = built("test-wheel")?;
    let site = install(&python, &wheel, "old-torch-site")?;
    let mut tests = Command::new(&python);
    tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]);
    tests.args(TORCH_ALONE.map(|name| format!("python/tests/{name}")));
    tests.current_dir(root()).env("PYTHONPATH", &site).env("KEEPSTEP_WHEEL", &wheel);
    Ok(tests)
}

/// Imports the wheel of [`tests`] with other versions of Python, without torch, and runs its program.
pub(crate) fn other_versions() -> Result<(), String> {
    let site = root().join("target/test-site");
    for python in machine::other_pythons() {
        let script = "import keepstep, sys; assert keepstep._core.key(1337, 'micro-batch', 1, 0) == 8412895907590904191; \
                      print('keepstep', keepstep.__version__, 'imported by Python', sys.version.split()[0])";
        let run = |arguments: &[&str]| {
            let mut command = Command::new(&python);
            command.args(arguments).env("PYTHONPATH", &site).env("PYTHONDONTWRITEBYTECODE", "1");
            command
        };
        command::run(&mut run(&["-c", script]))?;
        command::run(run(&["-m", "keepstep", "--help"]).stdout(Stdio::null()))?;
    }
    Ok(())
}

/// The tests of `tests`, with the long ones that are marked `soak`.
pub(crate) fn soak() -> Result<[Command; 2], String> {
    let mut tests = tests()?;
    for tests in &mut tests {
        tests.args(["--durations=0", "-vv", "-m", "soak"]).env("KEEPSTEP_SOAK", "1");
    }
    Ok(tests)
}

/// Builds a release wheel, installs it away from the sources, and gives a script of `python/benches`.
pub(crate) fn bench(python: &Path, script: &str) -> Result<Command, String> {
    let wheel = build(&machine::package_python()?, &["--release"], "bench-wheel")?;
    let site = install(python, &wheel, "bench-site")?;
    let mut bench = Command::new(python);
    bench.arg(root().join("python/benches").join(script)).env("PYTHONPATH", &site);
    Ok(bench)
}

/// Installs a wheel into an empty folder below `target/`, away from the sources, and returns the folder.
fn install(python: &Path, wheel: &Path, folder: &str) -> Result<PathBuf, String> {
    let site = root().join("target").join(folder);
    let _ = std::fs::remove_dir_all(&site);
    command::run(
        Command::new(python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"])
            .arg(&site)
            .arg(wheel),
    )?;
    Ok(site)
}

/// Unpacks a wheel, which may be for another processor, into an empty folder below `target/`, and returns the folder.
fn unpack(python: &Path, wheel: &Path, folder: &str) -> Result<PathBuf, String> {
    let site = root().join("target").join(folder);
    let _ = std::fs::remove_dir_all(&site);
    command::run(Command::new(python).args(["-m", "zipfile", "-e"]).arg(wheel).arg(&site))?;
    Ok(site)
}

/// `cargo xtask wheel`: release wheels that run on other machines as well.
pub(crate) fn wheels(arguments: &[String]) -> Result<(), String> {
    let targets: &[&str] = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => &["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"],
        ["--here"] => &["x86_64-unknown-linux-gnu"],
        _ => return Err(format!("wheel takes --here or nothing, not {arguments:?}")),
    };
    let python = machine::package_python()?;
    for target in targets {
        machine::rust_target(target)?;
        let wheel = build(
            &python,
            &["--release", "--zig", "--compatibility", "manylinux_2_28", "--target", target],
            &format!("wheels/{target}"),
        )?;
        // It compares the symbols that the wheel needs with those that the policy allows.
        command::run(Command::new(&python).args(["-m", "auditwheel", "show"]).arg(&wheel))?;
        if target.starts_with("aarch64") {
            arm::import(&unpack(&python, &wheel, "arm-site")?)?;
        }
        println!("{}", wheel.display());
    }
    Ok(())
}

/// Builds a wheel into an empty folder below `target/`.
fn build(python: &Path, arguments: &[&str], folder: &str) -> Result<PathBuf, String> {
    let out = root().join("target").join(folder);
    let _ = std::fs::remove_dir_all(&out);
    let mut maturin = Command::new(python);
    maturin
        .args(["-m", "maturin", "build", "--quiet", "--locked", "--interpreter"])
        .arg(python)
        .args(arguments);
    maturin.arg("--out").arg(&out).current_dir(root());
    // maturin looks for `ziglang` and cargo on the path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = python.parent().map(Path::to_path_buf).into_iter().chain(std::env::split_paths(&path));
    maturin.env("PATH", std::env::join_paths(folders).map_err(|error| error.to_string())?);
    if let Some(cargo) = cargo().get_program().to_str() {
        maturin.env("CARGO", cargo);
    }
    command::run(&mut maturin)?;
    built(folder)
}

/// The wheel that [`build`] made in a folder below `target/`.
fn built(folder: &str) -> Result<PathBuf, String> {
    let out = root().join("target").join(folder);
    let wheel = std::fs::read_dir(&out)
        .map_err(|error| format!("{}: {error}", out.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.ok_or_else(|| format!("{} has no wheel", out.display()))
}

/// The numbers of pytest's last line, such as `3 failed, 41 passed, 2 skipped in 9.31s`.
pub(crate) fn counts(line: &str) -> Option<[u64; 3]> {
    let (counts, _) = line.trim_matches(['=', ' ']).split_once(" in ")?;
    let mut found = [0; 3];
    for count in counts.split(", ") {
        let (number, what) = count.split_once(' ')?;
        let number = number.parse::<u64>().ok()?;
        match what {
            "passed" => found[0] += number,
            "failed" | "error" | "errors" => found[1] += number,
            "skipped" => found[2] += number,
            "warning" | "warnings" | "deselected" => {}
            _ => return None,
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn the_last_line_of_pytest_is_counted() {
        assert_eq!(counts("3 failed, 41 passed, 2 skipped, 1 warning in 9.31s (0:00:09)"), Some([41, 3, 2]));
        assert_eq!(counts("===== 1 passed, 1 error in 0.1s ====="), Some([1, 1, 0]));
        assert_eq!(counts("tests/test_x.py .... [100%]"), None);
    }
}
