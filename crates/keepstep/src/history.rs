//! The sessions of a run, as its journal has them.

use crate::journal::JOURNAL;
use crate::position::Position;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// From one start of the program to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// When it began, in seconds since 1970 (UTC).
    pub started: f64,
    /// When it wrote its last line.
    pub ended: f64,
    /// The checkpoint that it continued from.
    pub resumed_from: Option<String>,
    /// Where it began.
    pub from: Position,
    /// Where it came to.
    pub to: Position,
    /// Updates that it made.
    pub updates: u64,
    /// How many of them an earlier session had made before.
    pub replayed: u64,
    /// Updates that no later session continued from: made after the checkpoint that the next one began with.
    pub lost: u64,
    /// Tokens of its updates.
    pub num_tokens: u64,
    /// Why it ended; None where it was killed (or still runs).
    pub reason: Option<String>,
}

impl Session {
    /// Tokens per second between its first and its last line.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.ended - self.started;
        (seconds > 0.0 && self.num_tokens > 0).then(|| self.num_tokens as f64 / seconds)
    }
}

/// Reads the journal of a run's folder. Lines that are not whole are passed over.
///
/// # Errors
/// There is no journal, or it cannot be read.
pub fn sessions(folder: &Path) -> io::Result<Vec<Session>> {
    let mut sessions: Vec<Session> = Vec::new();
    for line in BufReader::new(File::open(folder.join(JOURNAL))?).split(b'\n') {
        let Ok(line) = serde_json::from_slice::<Value>(&line?) else { continue };
        let number = |key: &str| line[key].as_u64().unwrap_or_default();
        let position =
            || Position { epoch: number("epoch"), step: number("step"), global_step: number("global_step") };
        let time = line["time"].as_f64().unwrap_or_default();
        if line["event"] == "start" {
            let from = position();
            if let Some(last) = sessions.last_mut() {
                last.lost = last.to.global_step.saturating_sub(from.global_step);
            }
            sessions.push(Session {
                started: time,
                ended: time,
                resumed_from: line["resumed_from"].as_str().map(str::to_owned),
                from,
                to: from,
                updates: 0,
                replayed: 0,
                lost: 0,
                num_tokens: 0,
                reason: None,
            });
            continue;
        }
        let Some(session) = sessions.last_mut() else { continue };
        session.ended = session.ended.max(time);
        if line["event"] == "update" {
            session.to = position();
            session.updates += 1;
            session.replayed += u64::from(line["replay"] == true);
            session.num_tokens += number("num_tokens");
        } else if line["event"] == "stop" {
            session.reason = line["reason"].as_str().map(str::to_owned);
        } else if line["event"] == "not_finite" {
            session.reason = Some("not finite".to_owned());
        }
    }
    Ok(sessions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_losses_and_replays_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = r#"
{"event":"start","time":10.0,"epoch":1,"step":0,"global_step":0,"resumed_from":null}
{"event":"update","time":11.0,"epoch":1,"step":1,"global_step":1,"num_tokens":50,"replay":false}
{"event":"update","time":12.0,"epoch":1,"step":2,"global_step":2,"num_tokens":50,"replay":false}
{"event":"upd
{"event":"start","time":20.0,"epoch":1,"step":1,"global_step":1,"resumed_from":"x.pt"}
{"event":"update","time":21.0,"epoch":1,"step":2,"global_step":2,"num_tokens":50,"replay":true}
{"event":"stop","time":22.0,"reason":"signal","global_step":2}
"#;
        std::fs::write(folder.path().join(JOURNAL), text).expect("a journal");
        let sessions = sessions(folder.path()).expect("sessions");
        assert_eq!(sessions.len(), 2);
        assert_eq!((sessions[0].updates, sessions[0].lost, sessions[0].reason.clone()), (2, 1, None));
        assert_eq!((sessions[1].replayed, sessions[1].lost), (1, 0));
        assert_eq!(sessions[1].reason.as_deref(), Some("signal"));
        assert_eq!(sessions[0].tokens_per_second(), Some(50.0));
    }
}
