//! A corpus from files to tokens, compared with Hugging Face's own parallel encoder.

use super::measure::{Times, collect, median, scratch};
use super::program::{Moment, first, train, watch};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

/// The size of the corpus, in MB.
const SIZE: &str = "KEEPSTEP_BENCH_MB";

const CONFIG: &str = "\
batch_size = 8
[model]
block_size = 64
n_layer = 1
n_head = 1
n_embd = 16
";

pub(super) fn run(torch: Option<&Path>) -> Result<(), String> {
    let megabytes: usize = match std::env::var(SIZE) {
        Ok(text) => text.parse().map_err(|_| format!("{SIZE} is {text}, and should be a number"))?,
        Err(_) => 1000,
    };
    let folder = scratch("tokenize")?;
    let result = measure(&folder, megabytes, torch);
    fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    result
}

fn measure(folder: &Path, megabytes: usize, torch: Option<&Path>) -> Result<(), String> {
    // Half of it in one file, half in a hundred.
    fs::create_dir_all(folder.join("corpus/many")).map_err(|error| error.to_string())?;
    let half = megabytes * 500_000;
    let mut text = Text::new();
    text.write(&folder.join("corpus/one.txt"), half)?;
    for index in 0..100 {
        text.write(&folder.join(format!("corpus/many/{index:03}.txt")), half / 100)?;
    }
    let config = folder.join("config.toml");
    fs::write(&config, CONFIG).map_err(|error| error.to_string())?;
    let config = config.display().to_string();
    // Stamps of files this young are not trusted, so wait.
    std::thread::sleep(std::time::Duration::from_secs(4));

    println!("a corpus of {megabytes} MB: seconds, and MB of memory at most");
    println!(
        "tokenizer          read  train it  encode    MB/s  memory  ready the second time   Hugging Face's encoder, MB/s"
    );
    let bpe = folder.join("run bpe 32000/tokenizer.json").display().to_string();
    for (name, tokenizer) in [
        ("bytes", "\"bytes\"".to_owned()),
        ("chars", "\"chars\"".to_owned()),
        ("bpe 8192", "{ bpe = 8192 }".to_owned()),
        ("bpe 32000", "{ bpe = 32000 }".to_owned()),
        ("tokenizer.json", format!("{bpe:?}")),
    ] {
        let run = folder.join(format!("run {name}"));
        let changes = |cache: &str| {
            vec![
                ("output_dir", run.display().to_string()),
                ("data.paths", format!("[{:?}]", folder.join("corpus/**/*.txt").display().to_string())),
                ("data.tokenizer", tokenizer.clone()),
                ("data.cache_dir", folder.join(cache).display().to_string()),
                ("eval_batches", "1".to_owned()),
            ]
        };
        let cache = format!("cache {name}");
        let cold = watch(&mut train(&config, &changes(&cache)), "\"update\"")?;
        let warm = watch(&mut train(&config, &changes(&cache)), "\"update\"")?;
        let phases = Phases::of(&cold);
        let theirs = match torch {
            Some(python) => {
                // A slow side measures a part of the corpus.
                let most =
                    if name.starts_with("bpe") || name == "tokenizer.json" { 32.min(megabytes) } else { 4 };
                let mut command = Command::new(python);
                command.arg("-c").arg(include_str!("tokenize.py")).arg(run.join("tokenizer.json"));
                command.arg(folder.join("corpus")).arg(folder.join("out")).arg(most.to_string());
                let mut times = Times::new();
                collect(&mut command, &mut times)?;
                format!("{:>8.1} ({:.0} MB of memory)", median(&times, "rate"), median(&times, "memory"))
            }
            None => String::new(),
        };
        println!(
            "{name:<15} {:>7.1} {:>9.1} {:>7.1} {:>7.0} {:>7.0} {:>22.2}   {theirs}",
            phases.read,
            phases.train,
            phases.encode,
            megabytes as f64 / phases.encode,
            cold.last().map_or(f64::NAN, |moment| moment.memory),
            first(&warm, "\"update\""),
        );
        fs::remove_dir_all(folder.join(&cache)).map_err(|error| error.to_string())?;
    }
    println!();
    Ok(())
}

/// Seconds.
struct Phases {
    read: f64,
    train: f64,
    encode: f64,
}

impl Phases {
    /// Reading to know the files comes first, reading to train a tokenizer begins again at 0, encoding ends with the plan.
    fn of(moments: &[Moment]) -> Phases {
        let done = |moment: &Moment| -> Option<u64> {
            let (_, rest) = moment.line.split_once("\"done_bytes\":")?;
            rest.split([',', '}']).next()?.parse().ok()
        };
        let reading: Vec<(f64, u64)> = moments
            .iter()
            .filter(|moment| moment.line.contains("\"reading\""))
            .filter_map(|moment| Some((moment.at, done(moment)?)))
            .collect();
        let again = reading.windows(2).find(|two| two[1].1 < two[0].1).map(|two| two[0].0);
        let is_training =
            |line: &str| line.contains("\"reading\"") || line.contains("\"training_tokenizer\"");
        let last = moments.iter().rfind(|moment| is_training(&moment.line)).map_or(0.0, |moment| moment.at);
        let read = again.unwrap_or(last);
        let plan = first(moments, "\"plan\"");
        Phases { read, train: last - read, encode: plan - last }
    }
}

/// Text that looks like text: words by Zipf's law, half of a page of them new ones, sentences, numbers, lines, and letters
/// beyond ASCII. The same every time.
struct Text {
    words: Vec<String>,
    state: u64,
}

impl Text {
    fn new() -> Text {
        const SYLLABLES: [&str; 32] = [
            "the", "an", "er", "in", "on", "re", "st", "en", "at", "or", "is", "ing", "al", "le", "con",
            "de", "ti", "ra", "ve", "ment", "co", "ly", "pro", "qu", "tion", "a", "o", "im", "é", "ü", "sh",
            "me",
        ];
        let mut text = Text { words: Vec::new(), state: 1 };
        for rank in 0..200_000_usize {
            let mut word = String::new();
            for _ in 0..1 + (rank as f64 + 1.0).log10() as usize / 2 + text.below(3) {
                word.push_str(SYLLABLES[text.below(SYLLABLES.len())]);
            }
            text.words.push(word);
        }
        text
    }

    fn below(&mut self, bound: usize) -> usize {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.state >> 11) * bound as u128) >> 53) as usize
    }

    /// Ranks whose logarithm is uniform.
    fn word(&mut self) -> usize {
        let uniform = self.below(1 << 30) as f64 / (1_u64 << 30) as f64;
        ((self.words.len() as f64).powf(uniform) as usize - 1).min(self.words.len() - 1)
    }

    fn write(&mut self, path: &Path, bytes: usize) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        let (mut written, mut line) = (0, String::new());
        while written < bytes {
            line.clear();
            for _ in 0..3 + self.below(20) {
                let word = self.word();
                line.push_str(&self.words[word]);
                match self.below(60) {
                    0 => line.push_str(", "),
                    1 => line.push_str(". "),
                    2 => line.push_str("'s "),
                    3 => {
                        let _ = write!(line, " {} ", self.below(100_000));
                    }
                    4 => line.push_str(" (日本) "),
                    _ => line.push(' '),
                }
            }
            line.push('\n');
            written += line.len();
            file.write_all(line.as_bytes()).map_err(failed)?;
        }
        file.into_inner().map_err(|error| error.to_string())?.sync_all().map_err(failed)
    }
}
