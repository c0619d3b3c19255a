//! `keepstep prove`: on the user's own config and corpus, train straight and again with kills, and compare every byte.

mod session;

use crate::arguments::ProveArguments;
use crate::failure::Failure;
use crate::format::quoted;
use crate::output;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::table::Table;
use keepstep_lm::Config;
use keepstep_lm::config::TokenizerSpec;
use session::{Session, Told};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Sessions after which the proof is given up.
const MAX_SESSIONS: u64 = 10_000;
/// Saves that a straight run makes at least, where it has so many updates.
const SAVES: u64 = 8;
/// How often a session is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// One SIGKILL.
struct Kill {
    run: u64,
    after: Duration,
    told: Told,
    /// The highest global step that this run had reported as saved by then.
    saved: Option<u64>,
    while_saving: bool,
}

/// What is proved, on what.
struct Proof<'a> {
    config: &'a Config,
    scratch: &'a Path,
    updates: u64,
    save_steps: u64,
    signals: &'a Signals,
    progress: Progress,
    kills: Vec<Kill>,
    sessions: u64,
    resumes: u64,
    runs: u64,
    /// Files that are not those of the straight run.
    different: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &ProveArguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.config, &arguments.set)?;
    if arguments.updates == 0 || arguments.kills == 0 {
        return Err(Failure::new(2, "--updates and --kills must be at least 1".to_owned()));
    }
    let signals = Signals::install(|_| {})?;
    let scratch = std::env::temp_dir().join(format!("keepstep-prove-{}", std::process::id()));
    let mut proof = Proof {
        config: &config,
        scratch: &scratch,
        updates: arguments.updates,
        save_steps: 0,
        signals: &signals,
        progress: Progress::new(),
        kills: Vec::new(),
        sessions: 0,
        resumes: 0,
        runs: 0,
        different: Vec::new(),
    };
    let outcome = proof.prove(arguments.kills);
    proof.progress.finish();
    let keep = outcome.is_ok() && !proof.different.is_empty();
    if !keep {
        let removed = std::fs::remove_dir_all(&scratch);
        signals.raise();
        outcome.as_ref().map_err(|failure| Failure::new(failure.status(), failure.to_string()))?;
        removed.map_err(|error| Failure::at(&scratch, &error))?;
    }
    let num_files = outcome?;
    output::print(&proof.report(num_files))?;
    proof.verdict()
}

impl Proof<'_> {
    /// Trains straight, and again with kills. Gives the number of checkpoints of the straight run.
    fn prove(&mut self, num_kills: u64) -> Result<usize, Failure> {
        std::fs::create_dir_all(self.scratch).map_err(|error| Failure::at(self.scratch, &error))?;
        let straight = self.scratch.join("straight");
        let (mut path, mut began) = (self.write_config()?, Instant::now());
        let mut told = self.straight(&path, &straight)?;
        if let Some(total) = told.total_steps.filter(|&total| total < self.updates) {
            self.progress
                .say(&format!("The run has only {total} updates; they are all that is trained here"));
            self.updates = total;
            std::fs::remove_dir_all(&straight).map_err(|error| Failure::at(&straight, &error))?;
            (path, began) = (self.write_config()?, Instant::now());
            told = self.straight(&path, &straight)?;
        }
        let lasted = began.elapsed();
        if told.reached.is_none() {
            return Err(Failure::new(1, "the run has no update, so there is nothing to prove".to_owned()));
        }
        let expected = checkpoints(&straight)?;
        let mut random = Random::new();
        while (self.kills.len() as u64) < num_kills {
            self.runs += 1;
            let run = self.scratch.join(format!("killed{}", self.runs));
            self.killed_run(&path, &run, lasted, num_kills, &mut random)?;
            let found = checkpoints(&run)?;
            let before = self.different.len();
            for name in expected.union(&found) {
                let is_in_both = expected.contains(name) && found.contains(name);
                if !(is_in_both && same_bytes(&straight.join(name), &run.join(name))?) {
                    self.different.push(run.join(name));
                }
            }
            if self.different.len() == before {
                std::fs::remove_dir_all(&run).map_err(|error| Failure::at(&run, &error))?;
            }
        }
        Ok(expected.len())
    }

    /// The user's config with no result key changed: it saves often, keeps all files, and begins anew.
    fn write_config(&mut self) -> Result<PathBuf, Failure> {
        let mut config = self.config.clone();
        config.save_steps = (self.updates / SAVES).clamp(1, config.save_steps);
        self.save_steps = config.save_steps;
        config.max_checkpoints = usize::MAX >> 1;
        config.resume_from_checkpoint = None;
        config.save_every = None;
        config.session_time_limit = None;
        config.sample.max_new_tokens = 0;
        let mut table = config.to_table();
        // Checkpoints do not say where a tokenizer lies; this config must.
        if let (TokenizerSpec::File(path), Some(data)) =
            (&config.data.tokenizer, table.get_mut("data").and_then(|data| data.as_table_mut()))
        {
            data.insert("tokenizer".to_owned(), path.clone().into());
        }
        let path = self.scratch.join("config.toml");
        std::fs::write(&path, table.to_string()).map_err(|error| Failure::at(&path, &error))?;
        Ok(path)
    }

    fn straight(&mut self, config: &Path, run: &Path) -> Result<Told, Failure> {
        self.progress.say(&format!("Training {} updates straight …", self.updates));
        let mut session = Session::start(config, run, self.updates)?;
        while session.ended().is_none() {
            if self.signals.is_stopping() {
                session.kill();
                return Err(stopped());
            }
            let (reached, updates) = (session.told().reached.unwrap_or(0), self.updates);
            self.progress.show(|| format!("Straight: {reached}/{updates} updates"));
            std::thread::sleep(GLANCE);
        }
        session.finish()
    }

    /// Trains up to the last update through as many kills as are left, or until a session gets to the end before its kill.
    fn killed_run(
        &mut self,
        config: &Path,
        run: &Path,
        lasted: Duration,
        num_kills: u64,
        random: &mut Random,
    ) -> Result<(), Failure> {
        let mut saved = None;
        loop {
            let is_last = self.kills.len() as u64 >= num_kills;
            // Anywhere in what a whole run takes, so that some sessions reach a save and some do not.
            let instant = random.below(lasted);
            let began = Instant::now();
            let mut session = Session::start(config, run, self.updates)?;
            self.sessions += 1;
            if self.sessions > MAX_SESSIONS {
                session.kill();
                return Err(Failure::new(1, "the killed run does not come to its end".to_owned()));
            }
            while (is_last || began.elapsed() < instant) && session.ended().is_none() {
                if self.signals.is_stopping() {
                    session.kill();
                    return Err(stopped());
                }
                let (reached, updates) = (session.told().reached.unwrap_or(0), self.updates);
                let (run, kill) = (self.runs, self.kills.len());
                self.progress
                    .show(|| format!("Run {run}: {reached}/{updates} updates, {kill}/{num_kills} kills"));
                let left = instant.saturating_sub(began.elapsed());
                std::thread::sleep(if is_last { GLANCE } else { left.min(GLANCE) });
            }
            let is_over = session.ended().is_some();
            let told = if is_over { session.finish()? } else { session.kill() };
            self.resumes += u64::from(told.resumed_at.is_some());
            let is_told = told.reached.is_some() || told.total_steps.is_some();
            if is_told && told.resumed_at < saved {
                let (saved, at) = (saved.unwrap_or(0), told.resumed_at.unwrap_or(0));
                return Err(Failure::new(
                    1,
                    format!(
                        "a checkpoint was reported as saved at global step {saved}, and the next session began at {at}"
                    ),
                ));
            }
            saved = saved.max(told.saved).max(told.resumed_at);
            if is_over {
                return Ok(());
            }
            let while_saving = has_temporary(run);
            self.kills.push(Kill { run: self.runs, after: began.elapsed(), told, saved, while_saving });
        }
    }

    /// Those after which something was left to do: after the last save, a session only sees that the run has ended.
    fn num_kills_after_a_save(&self) -> usize {
        self.kills.iter().filter(|kill| kill.saved.is_some_and(|saved| saved < self.updates)).count()
    }

    fn report(&self, num_files: usize) -> String {
        let mut table = Table::new(&[
            ("KILL", false),
            ("RUN", true),
            ("AFTER", true),
            ("RESUMED AT", true),
            ("REACHED", true),
            ("LAST SAVE", true),
            ("WHILE SAVING", false),
        ]);
        let step = |step: Option<u64>| step.map_or_else(|| "-".to_owned(), |step| step.to_string());
        for (index, kill) in self.kills.iter().enumerate() {
            table.row(vec![
                (index + 1).to_string(),
                kill.run.to_string(),
                format!("{:.3} s", kill.after.as_secs_f64()),
                step(kill.told.resumed_at),
                step(kill.told.reached),
                step(kill.saved),
                if kill.while_saving { "yes" } else { "no" }.to_owned(),
            ]);
        }
        let while_saving = self.kills.iter().filter(|kill| kill.while_saving).count();
        format!(
            "{}\nupdates              {}, saved every {}\nkills                {}\n  after a save       {}\n  while saving       \
             {while_saving}\nsessions             {}\n  that resumed       {}\ncheckpoints compared {} (of {} killed runs)\n",
            table.render(output::terminal_width()),
            self.updates,
            self.save_steps,
            self.kills.len(),
            self.num_kills_after_a_save(),
            self.sessions,
            self.resumes,
            num_files * self.runs as usize,
            self.runs,
        )
    }

    fn verdict(&self) -> Result<(), Failure> {
        if let Some(first) = self.different.first() {
            let straight = self.scratch.join("straight").join(first.file_name().unwrap_or_default());
            let list: Vec<String> = self.different.iter().map(|path| path.display().to_string()).collect();
            return Err(Failure::new(
                1,
                format!(
                    "NOT THE SAME: {}. The files are kept in {}; keepstep diff {} {} shows what differs",
                    list.join(", "),
                    self.scratch.display(),
                    quoted(&straight.display().to_string()),
                    quoted(&first.display().to_string()),
                ),
            ));
        }
        if self.num_kills_after_a_save() == 0 {
            let remedy = if self.updates < 2 {
                "the run is too short: give it more text or more epochs"
            } else {
                "use more --updates or more --kills"
            };
            return Err(Failure::new(
                1,
                format!("no kill came after a save, so nothing is proved; {remedy}"),
            ));
        }
        output::print("\nTHE SAME: every checkpoint has the bytes of the straight run's\n")
    }
}

fn stopped() -> Failure {
    Failure::new(1, "stopped; nothing is proved".to_owned())
}

/// The `.pt` files of a folder. A folder that is not there has none.
fn checkpoints(folder: &Path) -> Result<BTreeSet<String>, Failure> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(BTreeSet::new()) };
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::at(folder, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A temporary file of a session that was killed is none of the run's.
        if name.ends_with(".pt") && !name.starts_with('.') {
            found.insert(name);
        }
    }
    Ok(found)
}

/// Whether a save was under way when the last session was killed.
fn has_temporary(folder: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(folder) else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".pt.tmp")))
}

fn same_bytes(one: &Path, other: &Path) -> Result<bool, Failure> {
    let open = |path: &Path| File::open(path).map_err(|error| Failure::at(path, &error));
    let (mut left, mut right) = (open(one)?, open(other)?);
    let (mut left_part, mut right_part) = (Vec::new(), Vec::new());
    loop {
        let read = |file: &mut File, part: &mut Vec<u8>, path: &Path| {
            part.clear();
            file.take(1 << 20).read_to_end(part).map_err(|error| Failure::at(path, &error))
        };
        read(&mut left, &mut left_part, one)?;
        read(&mut right, &mut right_part, other)?;
        if left_part != right_part {
            return Ok(false);
        }
        if left_part.is_empty() {
            return Ok(true);
        }
    }
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
