//! Trains and saves: measures how long training stalls for a save, the effect on throughput, and the peak memory.
//! `cargo xtask bench` runs it.
//!
//! Arguments: a folder, a size (`M`, or `512` for a state of about 512 MiB), a number of updates, `save_steps`, and
//! whether to save in the background. It prints lines of a name and a number: `stall` and `wait` (for the previous
//! save) in ms for each save, `update` in ms, `peak` in MiB.

use keepstep::journal::Update;
use keepstep_lm::Config;
use keepstep_lm::trainer::{Control, EpochReport, Observer, train};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [folder, size, updates, save_steps, background] = arguments.as_slice() else {
        eprintln!("saving: run it through `cargo xtask bench`");
        return Ok(());
    };
    let mut config = config(Path::new(folder), size, updates.parse()?)?;
    (config.save_steps, config.background_saving) = (save_steps.parse()?, background.parse()?);
    let mut watch = Watch::default();
    train(&config, &Control::default(), &mut watch)?;
    for (stall, wait) in watch.stalls.iter().zip(&watch.waits) {
        println!("stall {:.4}", stall.as_secs_f64() * 1e3);
        println!("wait {:.4}", wait.as_secs_f64() * 1e3);
    }
    // The first updates also touch memory for the first time, so they are not counted.
    let (first, last) = (watch.updates.get(2).ok_or("more updates")?, watch.updates.last().ok_or("updates")?);
    let count = watch.updates.len() - 3;
    println!("update {:.4}", (*last - *first).as_secs_f64() * 1e3 / count as f64);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    if let Some(peak) = peak.and_then(|peak| peak.parse::<f64>().ok()) {
        println!("peak {:.1}", peak / 1024.0);
    }
    println!("state {:.1}", watch.num_parameters as f64 * 12.0 / f64::from(1 << 20));
    Ok(())
}

#[derive(Default)]
struct Watch {
    num_parameters: u64,
    updates: Vec<Instant>,
    stalls: Vec<Duration>,
    waits: Vec<Duration>,
}

impl Observer for Watch {
    fn planned(&mut self, plan: &keepstep_lm::trainer::PlanReport) {
        self.num_parameters = plan.num_parameters;
    }
    fn updated(&mut self, _: &Update, _: &EpochReport) {
        self.updates.push(Instant::now());
    }
    fn saving(&mut self, stalled: Duration, waited: Duration) {
        self.stalls.push(stalled);
        self.waits.push(waited);
    }
}

fn config(folder: &Path, size: &str, updates: u64) -> Result<Config, Box<dyn Error>> {
    let (n_layer, n_head, n_embd, block_size, batch_size) =
        if size == "M" { (6, 6, 384, 256, 16) } else { (3, 4, 1120, 32, 1) };
    std::fs::create_dir_all(folder)?;
    let corpus = folder.join("corpus.txt");
    std::fs::write(&corpus, "goes on ".repeat((updates as usize + 3) * block_size * batch_size / 8))?;
    let mut config = Config { output_dir: folder.join("run").display().to_string(), ..Config::default() };
    config.data.paths = vec![corpus.display().to_string()];
    config.data.cache_dir = Some(folder.join("cache").display().to_string());
    config.data.validation_fraction = 0.0;
    (config.model.n_layer, config.model.n_head, config.model.n_embd) = (n_layer, n_head, n_embd);
    (config.model.block_size, config.batch_size) = (block_size, batch_size);
    (config.total_steps, config.max_checkpoints) = (Some(updates), 1);
    config.sample.max_new_tokens = 0;
    Ok(config)
}
