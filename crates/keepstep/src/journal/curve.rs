//! The curve of a run, as its journal has it: each step once, whatever was killed, lost and made again.
//!
//! A session that starts at a global step takes back what earlier sessions did beyond it. So an update counts where no
//! later session starts below it, and what is left has strictly rising steps.

use super::{Event, JOURNAL, Line};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

/// Throughput is the mean over at least this much training, in seconds: journals count milliseconds.
const RATE_SECONDS: f64 = 1.0;

const BUFFER_BYTES: usize = 1 << 18;

/// An update, an evaluation or a sample that no later session took back.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Point {
    /// When it was complete, in seconds since 1970 (UTC).
    pub time: f64,
    /// What happened.
    pub event: Event,
    /// For some updates: the mean rate of the updates since the last one with a rate. Evaluations and samples are not
    /// counted, and very short spans have no rate.
    pub tokens_per_second: Option<f64>,
}

impl Point {
    /// An event without a rate.
    pub fn new(time: f64, event: Event) -> Point {
        Point { time, event, tokens_per_second: None }
    }
}

/// Reads a journal from its beginning, one event at a time, in memory that does not grow with it. At its end it may be
/// asked again: it goes on with what a session has written since.
#[derive(Debug)]
pub struct Series {
    file: BufReader<File>,
    /// Where the line that is read next begins.
    offset: u64,
    line: Vec<u8>,
    /// Ends of the lines of starts, and the lowest step that this or a later one starts at; oldest first.
    starts: Vec<(u64, u64)>,
    next_start: usize,
    last: Last,
    rate: Rate,
}

/// The steps of the last events of each kind: None before the first.
#[derive(Debug, Default)]
struct Last {
    update: Option<u64>,
    evaluation: Option<u64>,
    sample: Option<u64>,
}

#[derive(Debug, Default)]
struct Rate {
    /// When the session last did something else than train.
    since: Option<f64>,
    seconds: f64,
    num_tokens: u64,
}

impl Series {
    /// Opens the journal of a run's folder; nothing is written.
    ///
    /// # Errors
    /// There is no journal, or it cannot be read.
    pub fn open(folder: &Path) -> io::Result<Series> {
        let mut file = BufReader::with_capacity(BUFFER_BYTES, File::open(folder.join(JOURNAL))?);
        let mut starts = starts(&mut file)?;
        let mut lowest = u64::MAX;
        for (_, global_step) in starts.iter_mut().rev() {
            lowest = lowest.min(*global_step);
            *global_step = lowest;
        }
        file.seek(SeekFrom::Start(0))?;
        Ok(Series {
            file,
            offset: 0,
            line: Vec::new(),
            starts,
            next_start: 0,
            last: Last::default(),
            rate: Rate::default(),
        })
    }

    /// The next event; None at the end of what is there. A line that is not whole yet is left for later, one that is no
    /// event is passed over.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn next_point(&mut self) -> io::Result<Option<Point>> {
        loop {
            self.file.read_until(b'\n', &mut self.line)?;
            if self.line.last() != Some(&b'\n') {
                return Ok(None);
            }
            self.offset += self.line.len() as u64;
            let line = std::mem::take(&mut self.line);
            let point = serde_json::from_slice::<Line>(&line).ok().and_then(|line| self.point(line));
            self.line = line;
            self.line.clear();
            if point.is_some() {
                return Ok(point);
            }
        }
    }

    fn point(&mut self, line: Line) -> Option<Point> {
        while self.starts.get(self.next_start).is_some_and(|(end, _)| *end <= self.offset) {
            self.next_start += 1;
        }
        let Line { time, event } = line;
        let step = event.global_step()?;
        let last = match &event {
            Event::Start(_) => {
                self.rate = Rate { since: Some(time), ..Rate::default() };
                return None;
            }
            Event::Update(_) => &mut self.last.update,
            Event::Evaluation(_) => &mut self.last.evaluation,
            Event::Sample(_) => &mut self.last.sample,
            _ => return None,
        };
        let is_taken_back = self.starts.get(self.next_start).is_some_and(|(_, lowest)| step > *lowest);
        if is_taken_back || last.is_some_and(|last| step <= last) {
            return None;
        }
        *last = Some(step);
        let tokens_per_second = if let Event::Update(update) = &event {
            self.rate.updated(time, update.num_tokens)
        } else {
            self.rate.since = Some(time);
            None
        };
        Some(Point { time, event, tokens_per_second })
    }
}

impl Rate {
    fn updated(&mut self, time: f64, num_tokens: u64) -> Option<f64> {
        let since = self.since.replace(time)?;
        self.seconds += (time - since).max(0.0);
        self.num_tokens += num_tokens;
        if self.seconds < RATE_SECONDS {
            return None;
        }
        let rate = self.num_tokens as f64 / self.seconds;
        (self.seconds, self.num_tokens) = (0.0, 0);
        Some(rate)
    }
}

/// Whether the journal has a sample that was written at this step and not taken back. Errors count as no.
pub fn has_sample(folder: &Path, global_step: u64) -> bool {
    let Ok(file) = File::open(folder.join(JOURNAL)) else { return false };
    let mut has = false;
    let done = lines(&mut BufReader::with_capacity(BUFFER_BYTES, file), |line, _| {
        // Most lines are updates: only the others are worth parsing.
        if line.contains("\"sample\"") || line.contains("\"start\"") {
            match serde_json::from_str::<Line>(line).map(|line| line.event) {
                Ok(Event::Start(start)) => has &= start.global_step >= global_step,
                Ok(Event::Sample(sample)) => has |= sample.global_step == global_step,
                _ => {}
            }
        }
    });
    done.is_ok() && has
}

/// Where the lines of starts end, and the steps that they start at.
fn starts(file: &mut BufReader<File>) -> io::Result<Vec<(u64, u64)>> {
    let mut starts = Vec::new();
    lines(file, |line, end| {
        if line.contains("\"start\"")
            && let Ok(Line { event: Event::Start(start), .. }) = serde_json::from_str(line)
        {
            starts.push((end, start.global_step));
        }
    })?;
    Ok(starts)
}

/// Every whole line that is text, and where it ends.
fn lines(file: &mut BufReader<File>, mut visit: impl FnMut(&str, u64)) -> io::Result<()> {
    let (mut line, mut end) = (Vec::new(), 0);
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
            return Ok(());
        }
        end += line.len() as u64;
        if let Ok(text) = std::str::from_utf8(&line) {
            visit(text, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn start(global_step: u64) -> String {
        format!(r#"{{"event":"start","time":{global_step}.0,"global_step":{global_step},"version":"0"}}"#)
    }

    fn update(global_step: u64, loss: f64, time: f64) -> String {
        format!(
            r#"{{"epoch":1,"event":"update","global_step":{global_step},"grad_norm":0.5,"learning_rate":0.1,"loss":{loss},"num_tokens":50,"replay":false,"step":{global_step},"time":{time}}}"#
        )
    }

    fn evaluation(global_step: u64, val_loss: &str) -> String {
        format!(
            r#"{{"best":true,"event":"evaluation","global_step":{global_step},"time":1.0,"val_loss":{val_loss}}}"#
        )
    }

    fn sample(global_step: u64, text: &str) -> String {
        format!(r#"{{"event":"sample","global_step":{global_step},"prompt":"\n","text":{text},"time":2.0}}"#)
    }

    fn all(series: &mut Series) -> Vec<Point> {
        std::iter::from_fn(|| series.next_point().expect("readable")).collect()
    }

    fn losses(points: &[Point]) -> Vec<(u64, f64)> {
        points
            .iter()
            .filter_map(|point| match &point.event {
                Event::Update(update) => Some((update.global_step, update.loss?)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn what_was_taken_back_is_not_there_and_the_rest_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(JOURNAL);
        let lines = [
            start(0),
            update(1, 1.0, 1.0),
            update(2, 2.0, 2.0),
            evaluation(2, "\"NaN\""),
            sample(2, r#""a \"start\" <b>""#),
            update(3, 3.0, 3.0),
            evaluation(3, "0.5"),
            sample(3, "\"lost\""),
            "{\"event\":\"upd".to_owned(),
            start(2),
            update(3, 3.5, 4.0),
            update(4, 4.5, 5.0),
            // Back to an earlier one still, and not as far as before.
            start(1),
            update(2, 2.5, 6.0),
        ];
        std::fs::write(&path, format!("{}\n", lines.join("\n"))).expect("a journal");
        let mut series = Series::open(folder.path()).expect("a series");
        let events = all(&mut series);
        assert_eq!(losses(&events), [(1, 1.0), (2, 2.5)]);
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(!has_sample(folder.path(), 2));

        // It goes on, and leaves a line alone that is not whole.
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("the journal");
        let (more, rest) = ("{\"event\":\"evaluation\",\"global_step\":2,", "\"val_loss\":\"inf\"}\n");
        file.write_all(more.as_bytes()).expect("half a line");
        assert_eq!(series.next_point().expect("readable"), None);
        file.write_all(rest.as_bytes()).expect("the other half");
        let point = series.next_point().expect("readable").expect("a point");
        let Event::Evaluation(evaluation) = point.event else { panic!("an evaluation") };
        assert_eq!((evaluation.global_step, evaluation.val_loss), (2, Some(f64::INFINITY)));
        writeln!(file, "{}", sample(2, r#""x""#)).expect("a line");
        assert!(matches!(series.next_point(), Ok(Some(Point { event: Event::Sample(_), .. }))));
        assert!(has_sample(folder.path(), 2));
    }

    #[test]
    fn without_a_later_start_everything_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let lines = [start(0), update(1, 1.0, 1.0), evaluation(1, "2.0"), update(2, 2.0, 2.0), start(2)];
        std::fs::write(folder.path().join(JOURNAL), format!("{}\n{{\"torn", lines.join("\n")))
            .expect("a journal");
        let events = all(&mut Series::open(folder.path()).expect("a series"));
        assert_eq!(events.len(), 3);
        assert!(Series::open(&folder.path().join("nowhere")).is_err());
    }

    #[test]
    fn throughput_counts_training_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let eval = evaluation(3, "1.0").replace("\"time\":1.0", "\"time\":12.0");
        let lines = [start(0), update(1, 1.0, 0.4), update(2, 1.0, 1.2), update(3, 1.0, 2.0), eval];
        let text = format!("{}\n{}\n{}\n", lines.join("\n"), update(4, 1.0, 12.9), update(5, 1.0, 13.0));
        std::fs::write(folder.path().join(JOURNAL), text).expect("a journal");
        let rates: Vec<Option<f64>> = all(&mut Series::open(folder.path()).expect("a series"))
            .iter()
            .filter(|point| matches!(point.event, Event::Update(_)))
            .map(|point| point.tokens_per_second.map(f64::round))
            .collect();
        // 100 tokens in 1.2 s, then 100 in 0.8 + 0.9 s.
        assert_eq!(rates, [None, Some(83.0), None, Some(59.0), None]);
    }
}
