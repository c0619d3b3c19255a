//! `keepstep prove`: on the user's own config and corpus, train straight and again with kills, and compare every byte.

use super::Failure;
use crate::arguments::ProveArguments;
use keepstep_lm::Config;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts of the program after which the proof is given up.
const MAX_SESSIONS: u64 = 10_000;

/// What one killed run went through.
#[derive(Default)]
struct Tally {
    sessions: u64,
    resumes: u64,
    kills: u64,
    kills_after_a_save: u64,
}

pub(crate) fn run(arguments: &ProveArguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.config, &arguments.set).map_err(|error| Failure::of(2, &error))?;
    if arguments.updates == 0 || arguments.kills == 0 {
        return Err(Failure::new(2, "--updates and --kills must be at least 1".to_owned()));
    }
    let scratch = std::env::temp_dir().join(format!("keepstep-prove-{}", std::process::id()));
    let outcome = prove(&config, arguments, &scratch);
    let removed = std::fs::remove_dir_all(&scratch);
    let verdict = outcome?;
    removed.map_err(|error| Failure::new(1, format!("{}: {error}", scratch.display())))?;
    super::print(&verdict)
}

fn prove(config: &Config, arguments: &ProveArguments, scratch: &Path) -> Result<String, Failure> {
    let unwritable =
        |path: &Path, error: std::io::Error| Failure::new(1, format!("{}: {error}", path.display()));
    std::fs::create_dir_all(scratch).map_err(|error| unwritable(scratch, error))?;
    // Nothing functional changes; all files are kept.
    let mut proof = config.clone();
    proof.save_steps = (arguments.updates / 8).clamp(1, config.save_steps);
    proof.max_checkpoints = usize::MAX >> 1;
    proof.resume_from_checkpoint = None;
    proof.save_every = None;
    proof.session_time_limit = None;
    proof.sample.max_new_tokens = 0;
    let path = scratch.join("config.toml");
    std::fs::write(&path, proof.to_table().to_string()).map_err(|error| unwritable(&path, error))?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(1, format!("this program's own file is not known: {error}")))?;
    let start = |run: &Path| -> Result<Child, Failure> {
        let mut command = Command::new(&program);
        command.arg("train").arg(&path).arg("--set").arg(format!("output_dir={}", run.display()));
        command.args(["--stop-at", &arguments.updates.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().map_err(|error| Failure::new(1, format!("{}: {error}", program.display())))
    };

    let straight = scratch.join("straight");
    eprintln!("Training {} updates straight …", arguments.updates);
    let began = Instant::now();
    finish(start(&straight)?)?;
    let lasted = began.elapsed();
    let expected = checkpoints(&straight)?;

    eprintln!("Training them again with {} kills …", arguments.kills);
    let mut tally = Tally::default();
    let mut random = Random::new();
    let mut round = 0;
    let mut different = Vec::new();
    while tally.kills < arguments.kills {
        let run = scratch.join(format!("killed{round}"));
        round += 1;
        loop {
            let is_last = tally.kills >= arguments.kills;
            let has_saved = !checkpoints(&run)?.is_empty();
            let mut child = start(&run)?;
            tally.sessions += 1;
            tally.resumes += u64::from(has_saved);
            if tally.sessions > MAX_SESSIONS {
                let _ = child.kill();
                return Err(Failure::new(1, "the killed run does not come to its end".to_owned()));
            }
            if is_last {
                finish(child)?;
                break;
            }
            // Anywhere in what a whole run takes, so that some sessions reach a save and some do not.
            std::thread::sleep(random.below(lasted));
            if child.try_wait().is_ok_and(|status| status.is_some()) {
                finish(child)?;
                break;
            }
            let _ = child.kill();
            let _ = child.wait();
            tally.kills += 1;
            tally.kills_after_a_save += u64::from(!checkpoints(&run)?.is_empty());
        }
        let found = checkpoints(&run)?;
        for name in expected.union(&found) {
            if !(expected.contains(name)
                && found.contains(name)
                && same_bytes(&straight.join(name), &run.join(name))?)
            {
                different.push(format!("{} in {}", name, run.display()));
            }
        }
        std::fs::remove_dir_all(&run).map_err(|error| unwritable(&run, error))?;
    }
    if !different.is_empty() {
        return Err(Failure::new(1, format!("NOT THE SAME: {}", different.join(", "))));
    }
    if tally.kills_after_a_save == 0 {
        return Err(Failure::new(
            1,
            "no kill came after a save, so nothing is proved: use more --updates or more --kills".to_owned(),
        ));
    }
    Ok(format!(
        "updates              {}\nkills                {}\n  after a save       {}\nsessions             {}\n  that resumed       \
         {}\ncheckpoints compared {}\n\nTHE SAME: every checkpoint has the bytes of the straight run's\n",
        arguments.updates,
        tally.kills,
        tally.kills_after_a_save,
        tally.sessions,
        tally.resumes,
        expected.len() * round,
    ))
}

/// Waits for a session that is left alone: it ends at the wanted update, or with the run.
fn finish(child: Child) -> Result<(), Failure> {
    let output = child.wait_with_output().map_err(|error| Failure::new(1, error.to_string()))?;
    match output.status.code() {
        Some(0 | 75) => Ok(()),
        status => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().last().unwrap_or_default().trim_start_matches("keepstep: ").to_owned();
            Err(Failure::new(if status == Some(2) { 2 } else { 1 }, last))
        }
    }
}

/// The `.pt` files of a folder. A folder that is not there has none.
fn checkpoints(folder: &Path) -> Result<BTreeSet<String>, Failure> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(BTreeSet::new()) };
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::new(1, format!("{}: {error}", folder.display())))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A temporary file of a session that was killed is none of the run's.
        if name.ends_with(".pt") && !name.starts_with('.') {
            found.insert(name);
        }
    }
    Ok(found)
}

/// Two files at a time: those of a whole run need not fit into memory.
fn same_bytes(one: &Path, other: &Path) -> Result<bool, Failure> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| Failure::new(1, format!("{}: {error}", path.display())))
    };
    Ok(read(one)? == read(other)?)
}

/// Instants need no more than this.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let address = Box::new(0_u8);
        let seed = std::ptr::from_ref(&*address) as u64 ^ u64::from(std::process::id()) << 32;
        Random(seed | 1)
    }

    fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        limit.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
