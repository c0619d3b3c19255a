//! What happens in a run: the one type of event, from the run to its journal and to everyone who watches it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::position::Position;

/// One line of a journal: an event and its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Line {
    /// Seconds since 1970 (UTC).
    #[serde(default)]
    pub time: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Something that happened. In JSON the key `event` names the kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A session starts.
    Start(Start),
    /// An optimizer update is complete.
    Update(Update),
    /// An evaluation is complete.
    Evaluation(Evaluation),
    /// The model has written a text.
    Sample(Sample),
    /// A file is durable and verified.
    Save(Save),
    /// A save has failed.
    SaveFailed(SaveFailed),
    /// Files are in the place that outlives the machine, and were verified there.
    Push(Push),
    /// A newer save was copied instead of this one.
    PushSkipped(PushSkipped),
    /// An attempt to copy a save has failed.
    PushFailed(PushFailed),
    /// A loss or a gradient norm is not finite.
    NotFinite(NotFinite),
    /// A session ends.
    Stop(Stop),
    /// An event of a newer keepstep.
    #[serde(other)]
    Other,
}

/// A session starts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Start {
    /// The epoch that it starts in.
    pub epoch: u64,
    /// Micro-batches completed in that epoch.
    pub step: u64,
    /// Updates completed.
    pub global_step: u64,
    /// The checkpoint that it continues from.
    pub resumed_from: Option<String>,
    /// The digest of the run's identity.
    pub run: Option<String>,
    /// The version of keepstep.
    pub version: Option<String>,
    /// The machine.
    pub host: Option<String>,
    /// The number of its process there.
    pub pid: Option<u64>,
}

/// An optimizer update.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Update {
    /// The epoch that it belongs to.
    pub epoch: u64,
    /// Micro-batches completed in the epoch, this update's included.
    pub step: u64,
    /// Updates completed, this one included.
    pub global_step: u64,
    /// Mean loss over its tokens; None where the loop reports none.
    #[serde(with = "number", skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The loss again, as the bits of its float in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_bits: Option<String>,
    /// The learning rate that it used.
    #[serde(with = "number", skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The gradient's global norm before clipping.
    #[serde(with = "number", skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Its tokens.
    pub num_tokens: u64,
    /// Whether an earlier session made it before.
    pub replay: bool,
    /// Whether a gradient scaler skipped the optimizer step.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// An evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Evaluation {
    /// Updates completed before it.
    pub global_step: u64,
    /// The validation loss; None where the loop computes none.
    #[serde(with = "number", skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Other metrics, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, Number>,
    /// Whether it is the best so far.
    pub best: bool,
}

/// Text that the model wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Sample {
    /// Updates completed before it.
    pub global_step: u64,
    /// What was given.
    pub prompt: String,
    /// What the model wrote.
    pub text: String,
}

/// A file that is durable and verified.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Save {
    /// Its name.
    pub file: String,
    /// Updates completed in it.
    pub global_step: u64,
    /// Whether it is a scheduled one.
    pub scheduled: Option<bool>,
    /// How long saving took.
    pub seconds: f64,
}

/// A save that has failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SaveFailed {
    /// Updates completed.
    pub global_step: u64,
    /// Why.
    pub error: String,
}

/// Files that are in another place, verified and named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Push {
    /// Their names in the run's folder.
    pub files: Vec<String>,
    /// Updates completed in the save.
    pub global_step: u64,
    /// Bytes that were sent.
    pub bytes: u64,
    /// How long copying took.
    pub seconds: f64,
}

/// A save that was not copied, because a newer one came before its turn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PushSkipped {
    /// The checkpoint's name.
    pub file: String,
    /// Updates completed in it.
    pub global_step: u64,
}

/// A copy that has failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PushFailed {
    /// Updates completed in the save.
    pub global_step: u64,
    /// Why.
    pub error: String,
}

/// A number that is not finite.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NotFinite {
    /// Updates completed before it.
    pub global_step: u64,
    /// "loss" or "gradient norm".
    pub what: String,
}

/// A session ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Stop {
    /// Updates completed.
    pub global_step: u64,
    /// Why.
    pub reason: String,
}

impl Event {
    /// Updates completed when it happened; None for events of a newer keepstep.
    pub fn global_step(&self) -> Option<u64> {
        Some(match self {
            Event::Start(event) => event.global_step,
            Event::Update(event) => event.global_step,
            Event::Evaluation(event) => event.global_step,
            Event::Sample(event) => event.global_step,
            Event::Save(event) => event.global_step,
            Event::SaveFailed(event) => event.global_step,
            Event::Push(event) => event.global_step,
            Event::PushSkipped(event) => event.global_step,
            Event::PushFailed(event) => event.global_step,
            Event::NotFinite(event) => event.global_step,
            Event::Stop(event) => event.global_step,
            Event::Other => return None,
        })
    }
}

impl Start {
    /// Where the session starts.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, step: self.step, global_step: self.global_step }
    }
}

impl Update {
    /// Where the run is after it.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, step: self.step, global_step: self.global_step }
    }

    /// The exact bits of the loss.
    pub(super) fn loss_bits(&self) -> Option<u64> {
        u64::from_str_radix(self.loss_bits.as_ref()?, 16).ok()
    }
}

impl Evaluation {
    /// An evaluation at a global step.
    pub fn new(global_step: u64, val_loss: f64, best: bool) -> Evaluation {
        Evaluation { global_step, val_loss: Some(val_loss), metrics: BTreeMap::new(), best }
    }
}

impl Sample {
    /// A text that was written at a global step.
    pub fn new(global_step: u64, prompt: impl Into<String>, text: impl Into<String>) -> Sample {
        Sample { global_step, prompt: prompt.into(), text: text.into() }
    }
}

/// A float. JSON has no NaN and no infinity: those are written as text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.serialize_str(&self.0.to_string())
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Float(f64),
            Text(String),
        }
        Ok(Number(match Written::deserialize(deserializer)? {
            Written::Float(value) => value,
            Written::Text(text) => text.parse().unwrap_or(f64::NAN),
        }))
    }
}

/// Optional floats as [`Number`]s.
mod number {
    use super::Number;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Number).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Number>::deserialize(deserializer)?.map(|number| number.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        serde_json::from_str(text).expect("a line")
    }

    #[test]
    fn floats_that_json_does_not_have_are_text() {
        let update = Update { loss: Some(f64::NAN), grad_norm: Some(f64::INFINITY), ..Update::default() };
        let text = serde_json::to_string(&Event::Update(update)).expect("JSON");
        assert!(text.contains(r#""loss":"NaN""#) && text.contains(r#""grad_norm":"inf""#), "{text}");
        let Event::Update(read) = line(&text).event else { panic!("an update") };
        assert!(read.loss.is_some_and(f64::is_nan) && read.grad_norm == Some(f64::INFINITY));
        assert!(read.learning_rate.is_none());
    }

    #[test]
    fn missing_and_unknown_keys_and_unknown_events_are_taken() {
        let Event::Update(update) = line(r#"{"event":"update","loss":1,"novel":[2]}"#).event else {
            panic!("an update")
        };
        assert_eq!((update.loss, update.global_step), (Some(1.0), 0));
        assert_eq!(line(r#"{"event":"novel","time":3.5,"x":{}}"#), Line { time: 3.5, event: Event::Other });
        assert!(serde_json::from_str::<Line>(r#"{"time":1.0}"#).is_err(), "no event");
    }
}
