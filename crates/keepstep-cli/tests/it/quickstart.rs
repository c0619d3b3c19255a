//! The quickstart ends in the bytes that the README shows, on every machine.

use crate::support;

use std::fs;
use std::path::Path;
use support::{expect, said};

#[test]
fn the_readme_s_figures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    let figure = |name: &str| {
        let row = readme.lines().find(|line| line.starts_with(&format!("| {name} |")));
        row.and_then(|row| row.split('`').nth(1)).unwrap_or_else(|| panic!("the README shows no {name}"))
    };
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().join("run");
    let output = expect(
        support::program()
            .current_dir(&root)
            .args(["train", "examples/quickstart.toml"])
            .args(["--set", &format!("output_dir={}", run.display())])
            .args(["--set", &format!("data.cache_dir={}", folder.path().join("cache").display())]),
        0,
    );
    let said = said(&output);
    for name in ["first validation loss", "final validation loss"] {
        assert!(said.contains(&format!("val_loss={}", figure(name))), "{name}:\n{said}");
    }
    assert_eq!(support::hash(&run.join(figure("final checkpoint"))), figure("its sha256"));
    let [first, last]: [f64; 2] = ["first validation loss", "final validation loss"]
        .map(|name| figure(name).parse().expect("a number"));
    assert!(last < first - 0.5, "the loss falls clearly");
    let sample = readme.split_once("<!-- quickstart sample -->\n```rust\n").expect("a sample").1;
    let sample = sample.split("```").next().expect("its end");
    let written = String::from_utf8_lossy(&output.stdout);
    let trimmed: String = written.trim_end().lines().map(|line| format!("{}\n", line.trim_end())).collect();
    assert_eq!(trimmed, sample);
}
