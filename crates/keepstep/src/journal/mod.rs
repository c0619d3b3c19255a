//! `journal.jsonl`: what happened and when, one line of JSON per event. Nothing in it reaches a checkpoint.

mod carry;
pub mod curve;
mod event;
#[cfg(test)]
mod page;
pub mod sessions;

pub use carry::carry;
pub use event::{
    Evaluation, Event, Line, NotFinite, Number, Push, PushFailed, PushSkipped, Sample, Save, SaveFailed,
    Start, Stop, Update,
};

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The journal's name in the run's folder.
pub const JOURNAL: &str = "journal.jsonl";

/// An append-only list of events.
///
/// # Durability
/// A line is written whole, by one call; a tail that a crash tore is cut when the journal is opened. Lines are durable
/// after [`Journal::sync`], which comes before a checkpoint that they lead to is published.
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Where the last whole line ends.
    len: u64,
}

impl Journal {
    /// Opens or makes the journal of a folder.
    ///
    /// # Errors
    /// The file cannot be opened, read or cut.
    pub fn open(folder: &Path) -> io::Result<Journal> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join(JOURNAL))?;
        let whole = end_of_last_line(&mut file)?;
        if whole < file.metadata()?.len() {
            file.set_len(whole)?;
        }
        file.seek(SeekFrom::End(0))?;
        Ok(Journal { file, len: whole })
    }

    /// Appends an event, with the time.
    ///
    /// # Errors
    /// The line could not be written; nothing of it is left, and a later one may succeed.
    pub fn append(&mut self, event: Event) -> io::Result<()> {
        // Through a map, which sorts the keys.
        let mut text = serde_json::to_value(Line { time: now(), event })?.to_string();
        text.push('\n');
        match self.file.write_all(text.as_bytes()) {
            Ok(()) => {
                self.len += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.len)?;
                self.file.seek(SeekFrom::Start(self.len))?;
                Err(error)
            }
        }
    }

    /// Makes every line so far durable.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The length of the file, whose last line is whole.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// What makes lines durable from another thread.
    ///
    /// # Errors
    /// The system's.
    pub fn syncer(&self) -> io::Result<Syncer> {
        Ok(Syncer(self.file.try_clone()?))
    }
}

/// Makes the lines of a journal durable, while others append to it.
#[derive(Debug)]
pub struct Syncer(File);

impl Syncer {
    /// Makes every line so far durable.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// What a journal has of one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournaledUpdate {
    /// The bits of the mean loss, where the line has it.
    pub(crate) loss: Option<u64>,
    /// The bits of the gradient's norm, where the line has it.
    pub(crate) grad_norm: Option<u64>,
}

/// Every whole line of a journal that is an event. Others are skipped.
pub(crate) fn events(file: File) -> impl Iterator<Item = Line> {
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_slice(&line).ok())
}

/// The updates after `global_step` that sessions of the run `digest` made; the last of those that were made again. If a
/// session stopped because an update differed, that update is ignored and the earlier line stands.
pub(crate) fn updates_after(folder: &Path, global_step: u64, digest: &str) -> BTreeMap<u64, JournaledUpdate> {
    let mut made = BTreeMap::new();
    let Ok(file) = File::open(folder.join(JOURNAL)) else { return made };
    let (mut is_ours, mut replaced) = (true, None);
    for line in events(file) {
        match line.event {
            Event::Start(start) => is_ours = start.run.is_none_or(|run| run == digest),
            Event::Stop(stop) if stop.reason == DIVERGED => {
                if let Some((step, Some(before))) = replaced.take() {
                    made.insert(step, before);
                }
            }
            Event::Update(update) if is_ours && update.global_step > global_step => {
                let (step, grad_norm) = (update.global_step, update.grad_norm.map(f64::to_bits));
                replaced =
                    Some((step, made.insert(step, JournaledUpdate { loss: update.loss_bits(), grad_norm })));
            }
            _ => {}
        }
    }
    made
}

/// The reason of a session that ended because an update made again was not what the journal has.
pub const DIVERGED: &str = "diverged";

/// The name of this machine.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Reports whether this machine has a process with this id.
pub fn process_exists(pid: u64) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // A process of another user cannot be sent a signal, and exists.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Seconds since 1970 in UTC.
#[expect(clippy::disallowed_methods, reason = "the journal is where the clock belongs")]
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1e3).round() / 1e3
}

/// `2026-01-31 12:34:56`, from seconds since 1970 in UTC, by Hinnant's algorithm for civil dates.
pub fn utc(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60)
}

/// Where the last whole line ends.
fn end_of_last_line(file: &mut File) -> io::Result<u64> {
    const BLOCK: u64 = 4096;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        if let Some(at) = block.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_tail_is_cut_and_whole_lines_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(JOURNAL);
        let mut journal = Journal::open(folder.path()).expect("a journal");
        journal.append(Event::Start(Start { global_step: 1, ..Start::default() })).expect("a line");
        drop(journal);
        let whole = std::fs::read(&path).expect("its bytes");
        for tail in [&b"{\"event\":\"upd"[..], &[b'x'; 10_000]] {
            std::fs::write(&path, [&whole[..], tail].concat()).expect("a torn tail");
            let mut journal = Journal::open(folder.path()).expect("a journal");
            assert_eq!(std::fs::read(&path).expect("its bytes"), whole);
            journal.append(Event::Stop(Stop::default())).expect("a line");
            journal.sync().expect("durable");
            let text = std::fs::read_to_string(&path).expect("its text");
            assert_eq!(text.lines().count(), 2);
            for line in text.lines() {
                serde_json::from_str::<Line>(line).expect("JSON");
            }
        }
    }

    #[test]
    fn what_sessions_of_this_run_made_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let update = |step: u64, bits: u64| {
            format!(
                "{{\"event\":\"update\",\"global_step\":{step},\"loss_bits\":\"{bits:016x}\",\"grad_norm\":0.5}}\n"
            )
        };
        let start = |run: &str| format!("{{\"event\":\"start\",\"run\":\"{run}\"}}\n");
        let stop = |reason: &str| format!("{{\"event\":\"stop\",\"reason\":\"{reason}\"}}\n");
        let losses = |parts: &[String]| -> Vec<(u64, u64)> {
            std::fs::write(folder.path().join(JOURNAL), parts.concat()).expect("a journal");
            updates_after(folder.path(), 1, "a")
                .into_iter()
                .map(|(step, made)| (step, made.loss.unwrap_or_default()))
                .collect()
        };
        let first = [start("a"), update(1, 1), update(2, 2), update(3, 3), stop("SIGTERM")];
        assert_eq!(losses(&first), [(2, 2), (3, 3)]);
        // Another function in the same folder has nothing to say.
        assert_eq!(losses(&[&first[..], &[start("b"), update(2, 9)]].concat()), [(2, 2), (3, 3)]);
        let again = [start("a"), update(2, 8)];
        assert_eq!(losses(&[&first[..], &again].concat()), [(2, 8), (3, 3)]);
        // The session that ended at a difference leaves what was there before.
        assert_eq!(losses(&[&first[..], &again, &[stop(DIVERGED)]].concat()), [(2, 2), (3, 3)]);
        let made = updates_after(folder.path(), 2, "a");
        assert_eq!(made[&3].grad_norm, Some(0.5_f64.to_bits()));
    }
}
