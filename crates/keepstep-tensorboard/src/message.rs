//! The messages of event files: `Event` and `Summary` of TensorFlow's `event.proto` and `summary.proto`, as far as
//! curves and text need them, in protocol buffers' wire format.

use keepstep::journal::curve::Point;
use keepstep::journal::{Evaluation, Event, Sample, Update};

/// The wire types of protocol buffers.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire: Wire) {
        self.varint(field << 3 | wire as u64);
    }

    fn int(mut self, field: u64, value: u64) -> Message {
        self.key(field, Wire::Varint);
        self.varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Message {
        self.key(field, Wire::Fixed64);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Message {
        self.key(field, Wire::Fixed32);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Message {
        self.key(field, Wire::Bytes);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn message(self, field: u64, value: Message) -> Message {
        self.bytes(field, &value.0)
    }

    /// Adds `Summary.value`, a scalar.
    fn scalar(self, tag: &str, value: f64) -> Message {
        self.message(1, Message::default().bytes(1, tag.as_bytes()).float(2, value as f32))
    }
}

/// Creates an `Event` with `wall_time` and `step` only.
fn event(time: f64, step: u64) -> Message {
    Message::default().double(1, time).int(2, step)
}

/// Encodes the first message of each file.
pub(super) fn file_version(time: f64) -> Vec<u8> {
    Message::default().double(1, time).bytes(3, b"brain.Event:2").0
}

/// Encodes a restart: tells readers of earlier files to drop all records from `step` on.
pub(super) fn restart(time: f64, step: u64) -> Vec<u8> {
    const START: u64 = 1;
    event(time, step).message(7, Message::default().int(1, START)).0
}

/// Recognizes messages that carry no curve: a file version, and a restart.
pub(super) fn is_preamble(message: &[u8]) -> bool {
    // The keys of `file_version` after `wall_time`, and of `session_log` after `wall_time` and `step`.
    let is_version = message.get(9) == Some(&0x1a);
    let step = message.get(10..).unwrap_or_default();
    let after_step = step.iter().position(|byte| byte & 0x80 == 0).map(|last| last + 1);
    let is_restart =
        message.get(9) == Some(&0x10) && after_step.is_some_and(|at| step.get(at) == Some(&0x3a));
    is_version || is_restart
}

/// Encodes a point of a curve, if TensorBoard shows it. The tags are those of transformers' `Trainer`.
pub(super) fn from_point(point: &Point) -> Option<Vec<u8>> {
    let summary = match &point.event {
        Event::Update(update) => of_update(update, point.tokens_per_second),
        Event::Evaluation(evaluation) => of_evaluation(evaluation),
        Event::Sample(sample) => of_sample(sample),
        _ => return None,
    };
    Some(event(point.time, point.event.global_step()?).message(5, summary).0)
}

fn of_update(update: &Update, tokens_per_second: Option<f64>) -> Message {
    scalars([
        ("train/loss", update.loss),
        ("train/learning_rate", update.learning_rate),
        ("train/grad_norm", update.grad_norm),
        ("train/tokens_per_second", tokens_per_second),
    ])
}

fn of_evaluation(evaluation: &Evaluation) -> Message {
    let others = evaluation.metrics.iter();
    others.fold(scalars([("eval/loss", evaluation.val_loss)]), |summary, (name, value)| {
        summary.scalar(&format!("eval/{name}"), value.0)
    })
}

/// Creates a summary of the values that are known.
fn scalars<const N: usize>(values: [(&str, Option<f64>); N]) -> Message {
    let known = values.into_iter().filter_map(|(tag, value)| Some((tag, value?)));
    known.fold(Message::default(), |summary, (tag, value)| summary.scalar(tag, value))
}

/// Creates a text summary in the form of torch's `add_text`: a string tensor for the plugin `text`. TensorBoard renders
/// it as Markdown. Lines are indented to keep them as they are.
fn of_sample(sample: &Sample) -> Message {
    const DT_STRING: u64 = 7;
    let whole = format!("{}{}", sample.prompt, sample.text);
    let text: Vec<String> = whole.lines().map(|line| format!("    {line}")).collect();
    let plugin = Message::default().bytes(1, b"text");
    let shape = Message::default().message(2, Message::default().int(1, 1));
    let tensor = Message::default().int(1, DT_STRING).message(2, shape).bytes(8, text.join("\n").as_bytes());
    let value = Message::default()
        .bytes(1, b"eval/sample/text_summary")
        .message(8, tensor)
        .message(9, Message::default().message(1, plugin));
    Message::default().message(1, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation() -> Point {
        Point::new(1.5, Event::Evaluation(Evaluation::new(300, 2.5, true)))
    }

    /// The expected bytes were worked out by hand from the wire format.
    #[test]
    fn the_bytes_of_an_evaluation() {
        let bytes = from_point(&evaluation()).expect("a message");
        let mut expected = vec![0x09];
        expected.extend(1.5_f64.to_le_bytes());
        expected.extend([0x10, 0xac, 0x02, 0x2a, 18, 0x0a, 16, 0x0a, 9]);
        expected.extend(b"eval/loss");
        expected.push(0x15);
        expected.extend(2.5_f32.to_le_bytes());
        assert_eq!(bytes, expected);
    }

    #[test]
    fn preambles_are_told_from_curves() {
        assert!(is_preamble(&file_version(1.0)));
        assert!(is_preamble(&restart(1.0, 5)) && is_preamble(&restart(1.0, u64::MAX)));
        assert!(!is_preamble(&from_point(&evaluation()).expect("a message")));
        assert!(!is_preamble(&[]));
    }
}
