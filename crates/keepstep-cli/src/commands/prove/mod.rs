//! `keepstep prove`: train a user's config once uninterrupted and again with kills, and compare every byte.

mod kills;
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
pub use kills::KillPlan;
use session::{Session, SessionReport};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The proof fails after this many sessions.
const MAX_SESSIONS: u64 = 10_000;
/// The fewest saves of an uninterrupted run, if it has as many updates.
const SAVES: u64 = 8;
/// The interval at which a session is checked.
const GLANCE: Duration = Duration::from_millis(2);

/// What the program says of a script, which only the Python package's program can prove.
const PYTHON_SCRIPT: &str = "this program has no Python, and a script needs it. Install the Python package (`pip install \
                             keepstep`), then run `python -m keepstep prove SCRIPT.py`";

/// One SIGKILL.
struct Kill {
    run: u64,
    after: Duration,
    report: SessionReport,
    /// The highest global step that this run had reported as saved before the kill.
    saved: Option<u64>,
    while_saving: bool,
}

/// A proof in progress.
struct Proof<'a> {
    config: &'a Config,
    scratch: &'a Path,
    updates: u64,
    save_steps: u64,
    /// The place that the killed runs are copied to. Their folders do not survive a kill.
    remote: Option<&'a str>,
    signals: &'a Signals,
    progress: Progress,
    kills: Vec<Kill>,
    sessions: u64,
    resumes: u64,
    runs: u64,
    /// Files that differ from those of the uninterrupted run.
    different: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &ProveArguments) -> Result<(), Failure> {
    if arguments.config.extension().is_some_and(|extension| extension == "py") {
        return Err(Failure::new(2, PYTHON_SCRIPT.to_owned()));
    }
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
        remote: arguments.remote.as_deref(),
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
    let (num_files, plan) = outcome?;
    output::print(&proof.report(num_files, &plan))?;
    proof.verdict(&plan)
}

impl Proof<'_> {
    /// Trains once uninterrupted and again with kills. Gives the number of checkpoints of the uninterrupted run.
    fn prove(&mut self, num_kills: u64) -> Result<(usize, KillPlan), Failure> {
        std::fs::create_dir_all(self.scratch).map_err(|error| Failure::at(self.scratch, &error))?;
        if let Some(folder) = self.remote.and_then(|url| url.strip_prefix("file://")) {
            // Each run is copied to a folder in it. One that cannot be made is an error of the first session.
            let _ = std::fs::create_dir(folder);
        }
        let straight = self.scratch.join("straight");
        let (mut path, mut began) = (self.write_config()?, Instant::now());
        let mut report = self.straight(&path, &straight)?;
        if let Some(total) = report.total_steps.filter(|&total| total < self.updates) {
            self.progress.say(&format!("The run has only {total} updates, so the proof trains {total}"));
            self.updates = total;
            std::fs::remove_dir_all(&straight).map_err(|error| Failure::at(&straight, &error))?;
            (path, began) = (self.write_config()?, Instant::now());
            report = self.straight(&path, &straight)?;
        }
        let lasted = began.elapsed();
        if report.reached.is_none() {
            return Err(Failure::new(1, "the config gives a run without updates, so nothing can be proved; use more text or more epochs"
.to_owned()));
        }
        let expected = checkpoints(&straight)?;
        let mut plan = KillPlan::new(num_kills, self.updates, lasted, arbitrary());
        while plan.wants_another() {
            self.runs += 1;
            let run = self.scratch.join(format!("killed{}", self.runs));
            self.killed_run(&path, &run, num_kills, &mut plan)?;
            if let Some(url) = self.url_of_run() {
                self.pull(&url, &run)?;
            }
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
        Ok((expected.len(), plan))
    }

    /// Writes the user's config with other runtime keys: frequent saves, all files kept, a new run. No key that affects
    /// results changes.
    fn write_config(&mut self) -> Result<PathBuf, Failure> {
        let mut config = self.config.clone();
        config.save_steps = (self.updates / SAVES).clamp(1, config.save_steps);
        self.save_steps = config.save_steps;
        config.max_checkpoints = usize::MAX >> 1;
        config.resume_from_checkpoint = None;
        config.save_every = None;
        config.session_time_limit = None;
        config.sample.max_new_tokens = 0;
        config.remote.url = None;
        // What was saved and not copied is lost with the disk, as on a machine that vanishes.
        config.remote.max_lag = Some(0);
        let mut table = config.to_table();
        // `to_table` leaves out the tokenizer's path, which this config needs.
        if let (TokenizerSpec::File(path), Some(data)) =
            (&config.data.tokenizer, table.get_mut("data").and_then(|data| data.as_table_mut()))
        {
            data.insert("tokenizer".to_owned(), path.clone().into());
        }
        let path = self.scratch.join("config.toml");
        std::fs::write(&path, table.to_string()).map_err(|error| Failure::at(&path, &error))?;
        Ok(path)
    }

    fn straight(&mut self, config: &Path, run: &Path) -> Result<SessionReport, Failure> {
        self.progress.say(&format!("Training {} updates without interruption …", self.updates));
        let mut session = Session::start(config, run, self.updates, None)?;
        while session.ended().is_none() {
            if self.signals.is_stopping() {
                session.kill();
                return Err(stopped());
            }
            let (reached, updates) = (session.report().reached.unwrap_or(0), self.updates);
            self.progress.show(|| format!("Uninterrupted: {reached}/{updates} updates"));
            std::thread::sleep(GLANCE);
        }
        session.finish()
    }

    /// Trains up to the last update with as many kills as are left, or until a session finishes before its kill.
    fn killed_run(
        &mut self,
        config: &Path,
        run: &Path,
        num_kills: u64,
        plan: &mut KillPlan,
    ) -> Result<(), Failure> {
        let mut saved = None;
        loop {
            let is_last = !plan.wants_another();
            let instant = plan.next_instant();
            let began = Instant::now();
            let url = self.url_of_run();
            let mut session = Session::start(config, run, self.updates, url.as_deref())?;
            self.sessions += 1;
            if self.sessions > MAX_SESSIONS {
                session.kill();
                return Err(Failure::new(
                    1,
                    format!("the killed run did not finish within {MAX_SESSIONS} sessions"),
                ));
            }
            while (is_last || began.elapsed() < instant) && session.ended().is_none() {
                if self.signals.is_stopping() {
                    session.kill();
                    return Err(stopped());
                }
                let (reached, updates) = (session.report().reached.unwrap_or(0), self.updates);
                let (run, kill) = (self.runs, self.kills.len());
                self.progress
                    .show(|| format!("Run {run}: {reached}/{updates} updates, {kill}/{num_kills} kills"));
                let left = instant.saturating_sub(began.elapsed());
                std::thread::sleep(if is_last { GLANCE } else { left.min(GLANCE) });
            }
            let is_over = session.ended().is_some();
            let report = if is_over { session.finish()? } else { session.kill() };
            self.resumes += u64::from(report.resumed_at.is_some());
            let has_reported = report.reached.is_some() || report.total_steps.is_some();
            if has_reported && report.resumed_at < saved {
                let (saved, at) = (saved.unwrap_or(0), report.resumed_at.unwrap_or(0));
                return Err(Failure::new(
                    1,
                    format!(
                        "a session reported a checkpoint at global step {saved}, but the next session began at {at}"
                    ),
                ));
            }
            // Only what was copied survives the disk.
            let kept = if url.is_some() { report.pushed } else { report.saved };
            saved = saved.max(kept).max(report.resumed_at);
            if is_over {
                return Ok(());
            }
            let while_saving = has_temporary(run);
            if url.is_some() && run.exists() {
                std::fs::remove_dir_all(run).map_err(|error| Failure::at(run, &error))?;
            }
            plan.killed(saved);
            self.kills.push(Kill { run: self.runs, after: began.elapsed(), report, saved, while_saving });
        }
    }

    /// The place of the current run.
    fn url_of_run(&self) -> Option<String> {
        self.remote.map(|url| format!("{}/killed{}", url.trim_end_matches('/'), self.runs))
    }

    /// Copies a run back, to compare what survived.
    fn pull(&self, url: &str, run: &Path) -> Result<(), Failure> {
        std::fs::remove_dir_all(run).map_err(|error| Failure::at(run, &error))?;
        crate::remote::pull(url, run)
    }

    fn report(&self, num_files: usize, plan: &KillPlan) -> String {
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
                step(kill.report.resumed_at),
                step(kill.report.reached),
                step(kill.saved),
                if kill.while_saving { "yes" } else { "no" }.to_owned(),
            ]);
        }
        let while_saving = self.kills.iter().filter(|kill| kill.while_saving).count();
        let wiped = match self.remote {
            Some(url) => format!("  each wiped the run's folder; the next session continued from {url}\n"),
            None => String::new(),
        };
        format!(
            "{}\nupdates              {}, saved every {}\nkills                {}\n{wiped}  after a save       {}\n  while saving       \
             {while_saving}\nsessions             {}\n  that resumed       {}\ncheckpoints compared {} (of {} killed runs)\n",
            table.render(output::terminal_width()),
            self.updates,
            self.save_steps,
            self.kills.len(),
            plan.num_after_a_save(),
            self.sessions,
            self.resumes,
            num_files * self.runs as usize,
            self.runs,
        )
    }

    fn verdict(&self, plan: &KillPlan) -> Result<(), Failure> {
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
        if plan.num_after_a_save() == 0 {
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
        output::print("\nTHE SAME: every checkpoint has the bytes of the uninterrupted run\n")
    }
}

fn stopped() -> Failure {
    Failure::new(1, "stopped before the proof was complete; nothing is proved".to_owned())
}

/// The names of a folder's `.pt` files. A missing folder has none.
fn checkpoints(folder: &Path) -> Result<BTreeSet<String>, Failure> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(BTreeSet::new()) };
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::at(folder, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Skip temporary files of killed sessions.
        if name.ends_with(".pt") && !name.starts_with('.') {
            found.insert(name);
        }
    }
    Ok(found)
}

/// Whether the last session was killed during a save.
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

/// An arbitrary number: where memory lies differs between processes.
fn arbitrary() -> u64 {
    let address = Box::new(0_u8);
    std::ptr::from_ref(&*address) as u64 ^ u64::from(std::process::id()) << 32
}
