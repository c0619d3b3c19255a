//! `cargo xtask quickstart --update`: the quickstart's list of crates, and the figures that the README shows.
//!
//! Run it after each update of Cargo.lock.

use crate::command::{cargo, describe, root};
use std::fs;
use std::path::Path;

const CONFIG: &str = "examples/quickstart.toml";
const README: &str = "README.md";

/// The crates whose sources the quickstart trains on: prose and code rather than tables, and needed on every target.
const PACKAGES: [&str; 5] = ["indicatif", "rayon", "rayon-core", "serde_json", "tempfile"];

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    if arguments != ["--update"] {
        return Err(format!("quickstart takes --update, not {arguments:?}"));
    }
    let config = root().join(CONFIG);
    let text = read(&config)?;
    let list: String = pinned()?.iter().map(|package| format!("    \"{package}\",\n")).collect();
    write(&config, &replaced(&text, "cargo_packages = [\n", "]\n", &list)?)?;

    let folder = std::env::temp_dir().join(format!("keepstep-quickstart-{}", std::process::id()));
    let mut train = cargo();
    train.args(["run", "--release", "--", "train", CONFIG, "--set"]);
    train.arg(format!("output_dir={}", folder.display()));
    let line = describe(&train);
    eprintln!("xtask: {line}");
    let output = train.output().map_err(|error| format!("{line}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{line}: {}\n{said}", output.status));
    }
    let figures = Figures::of(&folder, &said)?;
    fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let sample = String::from_utf8_lossy(&output.stdout);
    let sample: String = sample.trim_end().lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let readme = root().join(README);
    let text = read(&readme)?;
    let text = replaced(&text, "<!-- quickstart figures -->\n", "<!-- end -->", &figures.table())?;
    let text = replaced(&text, "<!-- quickstart sample -->\n```rust\n", "```", &sample)?;
    write(&readme, &text)
}

/// The crates of the quickstart as name-version, at the versions of Cargo.lock.
fn pinned() -> Result<Vec<String>, String> {
    let lock = read(&root().join("Cargo.lock"))?;
    PACKAGES
        .iter()
        .map(|name| {
            let (_, rest) = lock
                .split_once(&format!("name = \"{name}\"\nversion = \""))
                .ok_or_else(|| format!("Cargo.lock has no {name}"))?;
            let version = rest.split('"').next().unwrap_or_default();
            Ok(format!("{name}-{version}"))
        })
        .collect()
}

/// What the README shows of the finished run.
struct Figures {
    first_val_loss: String,
    val_loss: String,
    checkpoint: String,
    sha256: String,
}

impl Figures {
    fn of(folder: &Path, said: &str) -> Result<Figures, String> {
        let losses: Vec<&str> = said
            .lines()
            .filter_map(|line| line.strip_prefix("Evaluation at ")?.split_once("val_loss="))
            .filter_map(|(_, loss)| loss.split_whitespace().next())
            .collect();
        let checkpoint = said
            .lines()
            .filter_map(|line| line.strip_prefix("Saved ")?.rsplit('/').next())
            .rfind(|name| name.contains("_final_"))
            .ok_or("the run saved no final checkpoint")?;
        let sum = std::process::Command::new("sha256sum")
            .arg(folder.join(checkpoint))
            .output()
            .map_err(|error| format!("sha256sum: {error}"))?;
        let sha256 = String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap_or_default().to_owned();
        let (Some(first), Some(last)) = (losses.first(), losses.last()) else {
            return Err("the run made no evaluation".to_owned());
        };
        Ok(Figures {
            first_val_loss: (*first).to_owned(),
            val_loss: (*last).to_owned(),
            checkpoint: checkpoint.to_owned(),
            sha256,
        })
    }

    fn table(&self) -> String {
        let Figures { first_val_loss, val_loss, checkpoint, sha256 } = self;
        format!(
            "\n| | |\n|---|---|\n| first validation loss | `{first_val_loss}` |\n| final validation loss | `{val_loss}` |\n\
             | final checkpoint | `{checkpoint}` |\n| its sha256 | `{sha256}` |\n\n"
        )
    }
}

/// The text with what stands between `start` and `end` replaced.
fn replaced(text: &str, start: &str, end: &str, new: &str) -> Result<String, String> {
    let missing = || format!("{start:?} … {end:?} is not there");
    let (before, rest) = text.split_once(start).ok_or_else(missing)?;
    let (_, after) = rest.split_once(end).ok_or_else(missing)?;
    Ok(format!("{before}{start}{new}{end}{after}"))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After an update of Cargo.lock, `cargo xtask quickstart --update` must be run.
    #[test]
    fn the_list_is_that_of_the_lock_file() {
        let config = read(&root().join(CONFIG)).expect("the config");
        let list: Vec<String> = pinned().expect("versions");
        let start = config.split_once("cargo_packages = [\n").expect("a list").1;
        let written: Vec<&str> = start
            .split(']')
            .next()
            .expect("its end")
            .lines()
            .map(|line| line.trim().trim_matches([',', '"']))
            .filter(|line| !line.is_empty())
            .collect();
        assert_eq!(written, list);
    }
}
