//! `journal.jsonl`: what happened and when, one line of JSON per event. Nothing in it reaches a checkpoint.

use serde_json::{Value, json};
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

    /// Appends one event; `fields` is an object. The time is added.
    ///
    /// # Errors
    /// The line could not be written; nothing of it is left, and a later one may succeed.
    pub fn append(&mut self, event: &str, fields: Value) -> io::Result<()> {
        let mut line = json!({ "event": event, "time": now() });
        if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
            line.extend(fields);
        }
        let mut text = line.to_string();
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

/// The losses of updates after `global_step`, by their bits, as a journal has them; of updates made again the last.
///
/// Lines that are not whole, or not of an update, are passed over.
pub fn losses_after(folder: &Path, global_step: u64) -> BTreeMap<u64, u64> {
    let mut losses = BTreeMap::new();
    let Ok(file) = File::open(folder.join(JOURNAL)) else { return losses };
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        let step =
            line["global_step"].as_u64().filter(|&step| step > global_step && line["event"] == "update");
        let bits = line["loss_bits"].as_str().and_then(|bits| u64::from_str_radix(bits, 16).ok());
        if let (Some(step), Some(bits)) = (step, bits) {
            losses.insert(step, bits);
        }
    }
    losses
}

/// A float as its exact bits and as people read it.
pub fn exact(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

/// Seconds since 1970 in UTC.
#[expect(clippy::disallowed_methods, reason = "the journal is where the clock belongs")]
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1e3).round() / 1e3
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
        journal.append("start", json!({ "global_step": 1 })).expect("a line");
        drop(journal);
        let whole = std::fs::read(&path).expect("its bytes");
        for tail in [&b"{\"event\":\"upd"[..], &[b'x'; 10_000]] {
            std::fs::write(&path, [&whole[..], tail].concat()).expect("a torn tail");
            let mut journal = Journal::open(folder.path()).expect("a journal");
            assert_eq!(std::fs::read(&path).expect("its bytes"), whole);
            journal.append("stop", json!({})).expect("a line");
            journal.sync().expect("durable");
            let text = std::fs::read_to_string(&path).expect("its text");
            assert_eq!(text.lines().count(), 2);
            for line in text.lines() {
                serde_json::from_str::<Value>(line).expect("JSON");
            }
        }
    }

    #[test]
    fn floats_that_json_has_not_are_strings() {
        assert_eq!(exact(f64::NAN), json!("NaN"));
        assert_eq!(exact(0.1), json!(0.1));
    }
}
