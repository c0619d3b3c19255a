//! The event files of a run, as one sequence of records.

use super::message;
use super::record::{FOOTER_BYTES, HEADER_BYTES, message_len, record};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// File names are `events.out.tfevents.{seconds, ten digits}.keepstep`. TensorBoard reads files in the order of their
/// names.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".keepstep";

/// No preamble that keepstep writes is longer.
const LONGEST_PREAMBLE_BYTES: usize = 64;

/// The event files of a run. Expected records are first compared with the files. The first record that differs is cut,
/// with everything after it, and writing begins there.
///
/// # Durability
/// None. Lost records are written again from the journal.
#[derive(Debug)]
pub(super) struct EventFiles {
    folder: PathBuf,
    /// The files in reading order.
    paths: Vec<PathBuf>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// All bytes before `Place` are correct. `Step` is the step of the last record before it, if there is one.
    Comparing(Place, Option<Step>),
    /// Ready to write. If `cut`, a new file begins with a restart marker; otherwise the last file is continued.
    Ready {
        cut: bool,
    },
    Writing(BufWriter<File>),
}

#[derive(Debug, Default)]
struct Place {
    /// The index of the file.
    index: usize,
    /// The file, once it is open.
    file: Option<BufReader<File>>,
    /// The number of correct bytes in the file, or 0 if none of them belongs to a curve.
    right_bytes: u64,
    /// The number of bytes that have been read.
    read_bytes: u64,
}

/// The correct records of one global step. A restart makes TensorBoard drop whole steps: if writing begins in the
/// middle of a step, the step's records are written again.
#[derive(Debug)]
struct Step {
    step: u64,
    /// The time of the first record.
    time: f64,
    /// The place of the first record: the index of its file, and the number of correct bytes before it.
    begin: (usize, u64),
    records: Vec<u8>,
}

impl EventFiles {
    /// Opens a folder, and creates it if it is missing. Files of other programs are left alone.
    pub(super) fn open(folder: &Path) -> io::Result<EventFiles> {
        std::fs::create_dir_all(folder)?;
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if seconds_of(&path).is_some() {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(EventFiles {
            folder: folder.to_path_buf(),
            paths,
            state: State::Comparing(Place::default(), None),
        })
    }

    /// Ensures that this message, with its time and step, is the next record.
    pub(super) fn put(&mut self, message: &[u8], time: f64, step: u64) -> io::Result<()> {
        let record = record(message);
        if let State::Comparing(place, last) = &mut self.state {
            let before = (place.index, place.right_bytes);
            if place.is_next(&self.paths, &record)? {
                match last {
                    Some(last) if last.step == step => last.records.extend_from_slice(&record),
                    last => {
                        let begin = if before.0 == place.index { before } else { (place.index, 0) };
                        *last = Some(Step { step, time, begin, records: record });
                    }
                }
                return Ok(());
            }
            self.cut()?;
        }
        if let State::Ready { cut } = self.state {
            self.state = State::Writing(self.writer(cut, time, step)?);
        }
        if let State::Writing(file) = &mut self.state {
            file.write_all(&record)?;
        }
        Ok(())
    }

    /// Cuts everything after the last message, and writes buffered records to the file.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Comparing(..) => self.cut(),
            State::Ready { .. } => Ok(()),
            State::Writing(file) => file.flush(),
        }
    }

    /// Cuts the files where they stop being correct. If that is in the middle of a step, cuts before the step, which is
    /// then written again.
    fn cut(&mut self) -> io::Result<()> {
        let State::Comparing(place, last) = &mut self.state else { return Ok(()) };
        let (end, last) = ((place.index, place.right_bytes), last.take());
        let cut = self.is_more_than(end)?;
        if cut {
            self.truncate(last.as_ref().map_or(end, |last| last.begin))?;
        }
        self.state = match last.filter(|_| cut) {
            None => State::Ready { cut },
            Some(Step { step, time, records, .. }) => {
                let mut file = self.writer(cut, time, step)?;
                file.write_all(&records)?;
                file.flush()?;
                State::Writing(file)
            }
        };
        Ok(())
    }

    /// Reports whether any bytes follow a place.
    fn is_more_than(&self, (index, right_bytes): (usize, u64)) -> io::Result<bool> {
        match self.paths.get(index) {
            None => Ok(false),
            Some(path) => Ok(index + 1 < self.paths.len()
                || right_bytes == 0
                || std::fs::metadata(path)?.len() > right_bytes),
        }
    }

    /// Removes everything after a place, and removes a file that would be empty.
    fn truncate(&mut self, (index, right_bytes): (usize, u64)) -> io::Result<()> {
        let keep = if right_bytes > 0 { index + 1 } else { index };
        if let Some(path) = self.paths.get(index).filter(|_| right_bytes > 0) {
            OpenOptions::new().write(true).open(path)?.set_len(right_bytes)?;
        }
        for path in self.paths.drain(keep.min(self.paths.len())..) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    fn writer(&mut self, cut: bool, time: f64, step: u64) -> io::Result<BufWriter<File>> {
        if let (Some(last), false) = (self.paths.last(), cut) {
            return Ok(BufWriter::new(OpenOptions::new().append(true).open(last)?));
        }
        let after = self.paths.last().and_then(|path| seconds_of(path)).map_or(0, |seconds| seconds + 1);
        let mut seconds = after.max(time.max(0.0) as u64);
        let file = loop {
            let path = self.folder.join(format!("{PREFIX}{seconds:010}{SUFFIX}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => seconds += 1,
                file => {
                    self.paths.push(path);
                    break file?;
                }
            }
        };
        let mut file = BufWriter::new(file);
        file.write_all(&record(&message::file_version(time)))?;
        if cut {
            file.write_all(&record(&message::restart(time, step)))?;
        }
        Ok(file)
    }
}

impl Place {
    /// Reports whether `record` comes next, and if so moves past it.
    fn is_next(&mut self, paths: &[PathBuf], record: &[u8]) -> io::Result<bool> {
        loop {
            let Some(path) = paths.get(self.index) else { return Ok(false) };
            let file = match &mut self.file {
                Some(file) => file,
                file => file.insert(BufReader::with_capacity(1 << 18, File::open(path)?)),
            };
            let mut bytes = vec![0; record.len()];
            let len = read_up_to(file, &mut bytes)?;
            if len == 0 && self.read_bytes > 0 && self.right_bytes == self.read_bytes {
                *self = Place { index: self.index + 1, ..Place::default() };
                continue;
            }
            self.read_bytes += len as u64;
            if bytes[..len] == *record {
                self.right_bytes = self.read_bytes;
                return Ok(true);
            }
            if self.right_bytes > 0 || !self.skip_preamble(&bytes[..len])? {
                return Ok(false);
            }
        }
    }

    /// Moves past the next preamble, if `bytes` are the beginning of one.
    fn skip_preamble(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(false) };
        let Some(len) = message_len(header).filter(|&len| len <= LONGEST_PREAMBLE_BYTES) else {
            return Ok(false);
        };
        let whole = HEADER_BYTES + len + FOOTER_BYTES;
        let begin = self.read_bytes - bytes.len() as u64;
        let mut preamble = bytes.to_vec();
        if whole > bytes.len() {
            preamble.resize(whole, 0);
            if read_up_to(file, &mut preamble[bytes.len()..])? < whole - bytes.len() {
                return Ok(false);
            }
        } else {
            file.seek_relative(whole as i64 - bytes.len() as i64)?;
        }
        self.read_bytes = begin + whole as u64;
        let message = &preamble[HEADER_BYTES..HEADER_BYTES + len];
        Ok(message::is_preamble(message) && record(message) == preamble[..whole])
    }
}

/// Reads until `bytes` is full or the file ends.
fn read_up_to(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Parses the number in the name of one of keepstep's event files.
fn seconds_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}
