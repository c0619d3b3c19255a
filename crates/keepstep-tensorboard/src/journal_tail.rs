//! A thread that reads the journal and writes event files. It never blocks training, and training never waits for it.

use super::TENSORBOARD;
use super::files::EventFiles;
use super::message;
use keepstep::journal::curve::Series;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The time between two checks for new lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest time that the end of a session waits for the thread. The next session writes whatever is missing then.
const PATIENCE: Duration = Duration::from_secs(2);

/// The number of events between two checks for the end of the session.
const CHUNK: usize = 4096;

/// Writes the curves of a run from its journal until it is dropped.
#[derive(Debug)]
pub struct JournalTail {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The time at which the session ended.
    stopped: Option<Instant>,
    failure: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalTail {
    /// Starts to read the journal of the run in `folder`. The session must have begun.
    pub fn new(folder: &Path) -> JournalTail {
        let shared = Arc::new(Shared::default());
        let (own, folder) = (Arc::clone(&shared), folder.to_path_buf());
        let thread = std::thread::Builder::new().name("tensorboard".to_owned()).spawn(move || {
            if let Err(error) = follow(&folder, &own) {
                own.lock().failure = Some(error.to_string());
            }
        });
        let thread = thread.map_err(|error| shared.lock().failure = Some(error.to_string())).ok();
        JournalTail { shared, thread }
    }

    /// Ends the session and waits a short time for the thread to write the remaining events.
    pub fn finish(&mut self) {
        self.shared.lock().stopped.get_or_insert_with(Instant::now);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Returns why the thread has given up, once.
    pub fn take_failure(&mut self) -> Option<String> {
        self.shared.lock().failure.take()
    }
}

impl Drop for JournalTail {
    fn drop(&mut self) {
        self.finish();
    }
}

fn follow(folder: &Path, shared: &Shared) -> io::Result<()> {
    let mut series = Series::open(folder)?;
    let mut files = EventFiles::open(&folder.join(TENSORBOARD))?;
    loop {
        // Read first: events that were in the journal when the session ended must still be written.
        let stopped = shared.lock().stopped;
        if !catch_up(&mut series, &mut files, shared)? || stopped.is_some() {
            return Ok(());
        }
        let state = shared.lock();
        if state.stopped.is_none() {
            drop(shared.changed.wait_timeout(state, INTERVAL));
        }
    }
}

/// Writes all events of the journal. Returns false if the session has ended and waits no longer.
fn catch_up(series: &mut Series, files: &mut EventFiles, shared: &Shared) -> io::Result<bool> {
    loop {
        for _ in 0..CHUNK {
            let Some(point) = series.next_point()? else {
                files.flush()?;
                return Ok(true);
            };
            if let (Some(step), Some(message)) = (point.event.global_step(), message::from_point(&point)) {
                files.put(&message, point.time, step)?;
            }
        }
        if shared.lock().stopped.is_some_and(|stopped| stopped.elapsed() > PATIENCE) {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{FOOTER_BYTES, HEADER_BYTES, message_len};
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// Creates a run's folder. `sessions` gives the first update of each session and its number of updates.
    fn run(sessions: &[(u64, u64)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        write_journal(folder.path(), sessions);
        folder
    }

    fn write_journal(folder: &Path, sessions: &[(u64, u64)]) {
        let mut text = String::new();
        for (number, &(from, updates)) in sessions.iter().enumerate() {
            text.push_str(&format!("{{\"event\":\"start\",\"time\":{number},\"global_step\":{from}}}\n"));
            for step in from + 1..=from + updates {
                let time = number as f64 * 100.0 + step as f64 / 8.0;
                text.push_str(&format!(
                    "{{\"event\":\"update\",\"time\":{time},\"global_step\":{step},\"loss\":{},\"num_tokens\":9}}\n",
                    1.0 / step as f64
                ));
                if step % 3 == 0 {
                    let line = format!("\"time\":{time},\"global_step\":{step},\"val_loss\":{step}}}\n");
                    text.push_str(&format!("{{\"event\":\"evaluation\",{line}"));
                }
            }
        }
        fs::write(folder.join("journal.jsonl"), text).expect("a journal");
    }

    fn session(folder: &Path) {
        let shared = Shared::default();
        shared.lock().stopped = Some(Instant::now());
        follow(folder, &shared).expect("event files");
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder.join(TENSORBOARD)).expect("the folder");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths
    }

    /// Returns the step and the kind of a message: its second field, and the key of its third.
    fn step_of(message: &[u8]) -> (u64, u8) {
        assert_eq!(message[9], 2 << 3, "a step after the time");
        let len = 1 + message[10..].iter().take_while(|&&byte| byte >= 0x80).count();
        let varint = message[10..10 + len].iter().rev();
        (varint.fold(0, |step, &byte| step << 7 | u64::from(byte & 0x7f)), message[10 + len])
    }

    /// Returns all curves as TensorBoard reads them: every record except preambles and records that a restart drops.
    fn curves(folder: &Path) -> Vec<u8> {
        const SESSION_LOG: u8 = 7 << 3 | 2;
        let mut curves: Vec<(u64, Vec<u8>)> = Vec::new();
        for path in files(folder) {
            let bytes = fs::read(&path).expect("a file");
            let mut rest = bytes.as_slice();
            while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
                let len = message_len(header).expect("a header");
                let (record, after) = rest.split_at(HEADER_BYTES + len + FOOTER_BYTES);
                let message = &record[HEADER_BYTES..HEADER_BYTES + len];
                if !message::is_preamble(message) {
                    curves.push((step_of(message).0, record.to_vec()));
                } else if message[9] == 2 << 3 {
                    let (from, kind) = step_of(message);
                    assert_eq!(kind, SESSION_LOG);
                    curves.retain(|&(step, _)| step < from);
                }
                rest = after;
            }
            assert!(rest.is_empty(), "{}", path.display());
        }
        curves.into_iter().flat_map(|(_, record)| record).collect()
    }

    /// Returns the curves that a folder without event files gets from the same journal.
    fn expected(folder: &Path) -> Vec<u8> {
        let fresh = tempfile::tempdir().expect("a folder");
        fs::copy(folder.join("journal.jsonl"), fresh.path().join("journal.jsonl")).expect("a copy");
        session(fresh.path());
        assert_eq!(files(fresh.path()).len(), 1);
        curves(fresh.path())
    }

    #[test]
    fn a_session_that_goes_on_appends_and_one_that_goes_back_cuts() {
        let run = run(&[(0, 10)]);
        session(run.path());
        let first = curves(run.path());
        session(run.path());
        assert_eq!(curves(run.path()), first);
        write_journal(run.path(), &[(0, 10), (10, 5)]);
        session(run.path());
        assert_eq!(files(run.path()).len(), 1);
        assert!(curves(run.path()).starts_with(&first));
        for sessions in
            [&[(0, 10), (10, 5), (7, 0)][..], &[(0, 10), (10, 5), (7, 9), (3, 2)], &[(0, 1), (0, 4)]]
        {
            write_journal(run.path(), sessions);
            session(run.path());
            assert_eq!(curves(run.path()), expected(run.path()), "{sessions:?}");
        }
        write_journal(run.path(), &[(0, 0)]);
        session(run.path());
        assert!(files(run.path()).is_empty());
    }

    /// A kill can leave any prefix of the file. Any other damage is found as well.
    #[test]
    fn torn_damaged_and_missing_files_are_made_whole() {
        let run = run(&[(0, 6)]);
        session(run.path());
        let (path, expected) = (files(run.path()).remove(0), curves(run.path()));
        let whole = fs::read(&path).expect("a file");
        for len in (0..whole.len()).rev() {
            files(run.path()).iter().for_each(|path| fs::remove_file(path).expect("a file to remove"));
            fs::write(&path, &whole[..len]).expect("a torn file");
            session(run.path());
            assert_eq!(curves(run.path()), expected, "{len}");
        }
        files(run.path()).iter().for_each(|path| fs::remove_file(path).expect("a file to remove"));
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).expect("a damaged file");
            session(run.path());
            // A preamble is recognized by its shape alone, so its time may differ.
            assert_eq!(curves(run.path()), expected, "{at}");
            files(run.path()).iter().for_each(|path| fs::remove_file(path).expect("a file to remove"));
        }
        fs::write(&path, [&whole[..], &whole].concat()).expect("twice");
        session(run.path());
        assert_eq!(curves(run.path()), expected);
    }

    #[test]
    fn what_others_put_there_stays() {
        let run = run(&[(0, 3)]);
        let theirs = run.path().join(TENSORBOARD).join("events.out.tfevents.1.host");
        fs::create_dir(run.path().join(TENSORBOARD)).expect("a folder");
        fs::write(&theirs, "theirs").expect("a file");
        session(run.path());
        write_journal(run.path(), &[(0, 3), (1, 1)]);
        session(run.path());
        assert_eq!(fs::read(theirs).expect("the file"), b"theirs");
    }

    /// New lines are written while the session continues, and the rest at its end. A failure is reported once.
    #[test]
    fn it_follows_until_it_is_dropped() {
        let run = run(&[(0, 3)]);
        let follower = JournalTail::new(run.path());
        let began = Instant::now();
        while !run.path().join(TENSORBOARD).exists() || files(run.path()).is_empty() {
            assert!(began.elapsed() < Duration::from_secs(60), "nothing comes");
            std::thread::sleep(Duration::from_millis(10));
        }
        write_journal(run.path(), &[(0, 3), (3, 3)]);
        drop(follower);
        assert_eq!(curves(run.path()), expected(run.path()));

        let empty = tempfile::tempdir().expect("a folder");
        let mut follower = JournalTail::new(empty.path());
        let began = Instant::now();
        let failure = loop {
            match follower.take_failure() {
                Some(failure) => break failure,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no failure is reported");
        };
        assert!(!failure.is_empty() && follower.take_failure().is_none());
    }
}
