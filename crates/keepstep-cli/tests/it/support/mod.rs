//! A small run in a scratch folder, and the program that trains it.

#![allow(unreachable_pub, reason = "there is no crate to reach it from")]

pub mod local_server;
mod mounts;
mod running;

pub use mounts::{mounting, read_only};
pub use running::start;

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// 3 epochs of 10 micro-batches, accumulated by 3: four updates an epoch, the last one of a ragged window.
pub const UPDATES: u64 = 12;

/// A scratch folder with a corpus and a config.
pub struct Lab {
    folder: TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        let lab = Lab { folder: TempDir::new().expect("a scratch folder") };
        fs::write(lab.path("corpus.txt"), text(420)).expect("the corpus");
        fs::write(lab.path("config.toml"), lab.config_text()).expect("the config");
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Dropout, accumulation with a ragged window, warm-up, cosine, evaluations and a best model that moves.
    pub fn config_text(&self) -> String {
        format!(
            r#"output_dir = "{run}"
seed = 7
epochs = 3
batch_size = 2
gradient_accumulation_steps = 3
save_steps = 2
max_checkpoints = 100
eval_steps = 3

[data]
paths = ["{corpus}"]
validation_fraction = 0.2
tokenizer = "bytes"
cache_dir = "{cache}"

[model]
block_size = 16
n_layer = 2
n_head = 2
n_embd = 32
dropout = 0.1

[optimizer]
learning_rate = 1e-2
weight_decay = 0.1
betas = [0.9, 0.95]
max_grad_norm = 1.0

[schedule]
kind = "cosine"
warmup_steps = 3
"#,
            run = self.path("run").display(),
            corpus = self.path("corpus.txt").display(),
            cache = self.path("cache").display(),
        )
    }

    /// The program, asked to train into the folder `run` of this lab.
    pub fn train(&self, run: &str) -> Command {
        let mut command = program();
        command.arg("train").arg(self.path("config.toml"));
        command.arg("--set").arg(format!("output_dir={}", self.path(run).display()));
        command
    }

    /// Trains `run` straight through and gives its checkpoints.
    pub fn straight(&self, run: &str) -> BTreeMap<String, String> {
        expect(&mut self.train(run), 0);
        self.checkpoints(run)
    }

    /// The names of the `.pt` files of a folder, each with the hash of its bytes.
    pub fn checkpoints(&self, run: &str) -> BTreeMap<String, String> {
        checkpoints(&self.path(run))
    }
}

pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_keepstep"))
}

/// Runs the command and insists on its exit status.
pub fn expect(command: &mut Command, status: i32) -> Output {
    let output = command.output().expect("the program starts");
    assert_eq!(
        output.status.code(),
        Some(status),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The program's output on standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The names of the `.pt` files of a folder, each with the hash of its bytes.
pub fn checkpoints(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the folder of the run") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "pt") {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            found.insert(name, hash(&path));
        }
    }
    found
}

pub fn hash(path: &Path) -> String {
    let digest = Sha256::digest(fs::read(path).expect("a readable file"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `num_bytes` of something like prose, the same every time.
pub fn text(num_bytes: usize) -> String {
    const WORDS: [&str; 12] =
        ["the", "run", "that", "stops", "goes", "on", "from", "its", "exact", "step", "and", "again"];
    let mut state = 1_u64;
    let mut text = String::new();
    while text.len() < num_bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(WORDS[(state >> 33) as usize % WORDS.len()]);
        text.push(if (state >> 60) == 0 { '\n' } else { ' ' });
    }
    text.truncate(num_bytes);
    text
}

/// Flips one bit in the middle of a file.
pub fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("a file to damage");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("the damaged file");
}

/// The path of the checkpoint with the highest global step in its name.
pub fn newest(folder: &Path) -> PathBuf {
    let (_, name) = checkpoints(folder)
        .into_keys()
        .filter_map(|name| Some((global_step(&name)?, name)))
        .max()
        .expect("a checkpoint");
    folder.join(name)
}

/// The global step that the name of a checkpoint states.
pub fn global_step(name: &str) -> Option<u64> {
    name.rsplit_once("_global")?.1.strip_suffix(".pt")?.parse().ok()
}
